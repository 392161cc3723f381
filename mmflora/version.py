"""The version of mmflora."""

__version__ = '0.1.0'
