"""The batch norm of a linear head, under mmflora's own name.

In a config of MMSegmentation, behind a backbone that returns one map::

    neck = dict(type='mmflora.BatchNormNeck', in_channels=[1024])
    decode_head = dict(
        type='FCNHead', num_convs=0, concat_input=False, in_index=0,
        in_channels=1024, channels=1024, num_classes=150,
    )
"""

from mmflora.registry import MODELS

from .plain.norm_features import BatchNormNeck

__all__ = ['BatchNormNeck']

MODELS.register_module(module=BatchNormNeck)
