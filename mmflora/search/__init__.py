"""A search over the architectures of a supernet of adapters.

A supernet trains nested ranks (or widths), of which each layer draws its own;
an architecture is a choice of one for each layer.
"""
