"""Activations that are rebuilt in the backward pass instead of kept."""
