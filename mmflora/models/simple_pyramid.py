"""The pyramid of plain transformers, under mmflora's own name.

In a config of any toolkit, behind a backbone that returns one map::

    neck = dict(
        type='mmflora.SimplePyramid',
        in_channels=1024,
        out_channels=256,
        num_outs=5,
    )
"""

from mmflora.registry import MODELS

from .plain.pyramid_features import SimplePyramid

__all__ = ['SimplePyramid']

MODELS.register_module(module=SimplePyramid)
