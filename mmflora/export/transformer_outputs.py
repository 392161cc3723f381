"""What a transformer of a detector or segmentor computes, up to its queries.

Queries are chosen by sorting, and attend where masks exceed a threshold: a
rounding error may change both.  What stands before that is comparable.
"""

import inspect
from typing import Any

import torch
from mmengine.structures import BaseDataElement
from torch import Tensor, nn

from .dense_outputs import dense_outputs, own_precision


def comparable_outputs(
    model: nn.Module, images: Tensor, backbone_only: bool = False
) -> dict[str, Tensor]:
    """Return all that can be compared of what a model computes, by name.

    Args:
        model: The model; it is put in evaluation mode.
        images: Shape ``(N, 3, H, W)``, preprocessed.
        backbone_only: Stop after the backbone.
    """
    with own_precision(model):
        outputs = dense_outputs(model, images, backbone_only)
        if not backbone_only:
            outputs |= transformer_outputs(model, images)
    return outputs


@torch.no_grad()
def transformer_outputs(model: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """Return the outputs of a model's encoder or pixel decoder by name.

    Args:
        model: Any model, in evaluation mode.
        images: Shape ``(N, 3, H, W)``, preprocessed.

    Returns:
        Nothing for a model without either, and for one whose encoder reads
        texts, too.
    """
    whole: Any = model
    if hasattr(whole, 'pre_transformer'):
        return _memory(whole, images)
    for name in ('panoptic_head', 'decode_head'):
        decoder = getattr(getattr(whole, name, None), 'pixel_decoder', None)
        if decoder is not None and _needed(decoder.forward) == ['feats']:
            masks, scales = decoder(whole.extract_feat(images))
            found = {f'scale_{i}': scale for i, scale in enumerate(scales)}
            return {'mask_features': masks, **found}
    return {}


def _memory(model: Any, images: Tensor) -> dict[str, Tensor]:
    if 'text_dict' in _needed(model.forward_encoder):
        return {}
    size = tuple(images.shape[-2:])
    meta = dict(img_shape=size, batch_input_shape=size, pad_shape=size)
    samples = [BaseDataElement(metainfo=meta) for _ in images]
    inputs, _ = model.pre_transformer(model.extract_feat(images), samples)
    encoded = model.forward_encoder(**inputs)
    return {'memory': encoded['memory']}


def _needed(function: Any) -> list[str]:
    """Return the names of a function's arguments without default."""
    return [
        name
        for name, argument in inspect.signature(function).parameters.items()
        if argument.default is argument.empty
    ]
