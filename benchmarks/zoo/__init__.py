"""Whether the zoos of the toolkits build and train with adapters."""
