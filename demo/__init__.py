"""The demonstration: generated data, training, pictures."""
