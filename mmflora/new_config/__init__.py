"""From a folder of annotated images to a config that trains on it."""
