"""Segment Anything's published weights for timm's models.

The authors' ``.pth`` holds the backbone under ``image_encoder.``, with
``mlp.lin1`` for timm's ``mlp.fc1``, beside a prompt encoder and a mask
decoder; timm's filter renames it.  Positions depend on the size of the images:
a map ``(1, H, W, C)``, and for each block two tables of relative ones.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from timm.layers import resample_abs_pos_embed_nhwc
from torch import Tensor

CLASSES = ('VisionTransformerSAM',)


def with_sam_positions(
    state: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, Tensor]:
    """Resize positions to the model's, as the authors do at other sizes.

    Args:
        state: Weights under timm's keys.
        shapes: The model's shapes.
    """
    resized = dict(state)
    for key, value in state.items():
        wanted = tuple(shapes.get(key, value.shape))
        if tuple(value.shape) == wanted:
            continue
        if key == 'pos_embed' and value.ndim == len(wanted) == 4:
            resized[key] = resample_abs_pos_embed_nhwc(value, wanted[1:3])
        elif key.endswith(('rel_pos_h', 'rel_pos_w')) and value.ndim == 2:
            wide = value.to(torch.promote_types(value.dtype, torch.float32))
            resized[key] = F.interpolate(
                wide.T[None], size=wanted[0], mode='linear'
            )[0].T.to(value.dtype)
    return resized
