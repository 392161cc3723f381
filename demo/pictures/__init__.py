"""Pictures of a run: its curves, and what its models see."""

from .curves import draw_curves, read_scalars
from .predictions import draw_predictions

__all__ = ['draw_curves', 'draw_predictions', 'read_scalars']
