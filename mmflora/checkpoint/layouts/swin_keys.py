"""Swin's published weights: Microsoft's, mmdet's, mmseg's and timm's keys.

============= ============================ ==============================
part          Microsoft, timm              mmdet (``backbone.``), mmseg
============= ============================ ==============================
patches       patch_embed.proj             patch_embed.projection
attention     layers.i.blocks.j.attn       stages.i.blocks.j.attn.w_msa
MLP           mlp.fc1, mlp.fc2             ffn.layers.0.0, ffn.layers.1
============= ============================ ==============================

The classes convert these themselves: mmdet's with ``convert_weights=True``,
timm's by its filter.  The rest is said here.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

CLASSES = ('SwinTransformer', 'SwinTransformerV2', 'SwinTransformerV2Cr')
# The classifier's norm, and buffers that follow from the architecture.
UNUSED_KEYS = (
    r'norm\.(weight|bias)',
    r'.*\.attn_mask',
    r'.*\.relative_(position_index|coords_table)',
)


def as_mmdet_reads(
    backbone: Any, state: Mapping[str, Tensor]
) -> Mapping[str, Tensor]:
    """Put ``backbone.`` before the keys where mmdet's class demands it."""
    if getattr(backbone, 'convert_weights', True) or any(
        key.startswith('backbone.') for key in state
    ):
        return state
    names = {kind.__name__ for kind in type(backbone).__mro__}
    if not names & set(CLASSES):
        return state
    return {f'backbone.{key}': value for key, value in state.items()}
