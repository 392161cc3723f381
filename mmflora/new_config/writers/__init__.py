"""Annotations as the toolkits' data sets read them, beside the config."""
