"""Published InternViT weights, read into a model tensor by tensor.

Six billion parameters fit in a machine's memory once: nothing here holds more
of the file than one small buffer, besides the two tensors that are resized.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from mmflora.adapters.quantized import QuantizedWeight
from mmflora.files.checksums import check_finite
from mmflora.files.sources import open_table
from mmflora.files.stored_tensors import StoredTensor

from ..fit import left_out, misfit, say_remarks
from ..keys import Shapes, compare_keys, matches_any
from .intern_vit_keys import (
    Place,
    expected_shapes,
    intern_vit_places,
    resized,
    resized_shape,
)


def load_intern_vit(
    model: nn.Module,
    init_cfg: Mapping[str, Any],
    shapes: Shapes,
    optional: Iterable[str],
    unused: Iterable[str],
    grid: tuple[int, int],
) -> None:
    """Load published InternViT weights of any layout into timm's blocks.

    Nothing is written before every key has been accounted for.

    Args:
        model: An InternViT with timm's keys; its parameters hold memory.
        init_cfg: ``dict(type='Pretrained', checkpoint=..., prefix=...)``;
            the checkpoint is a file, an index of shards or a folder.
        shapes: The shapes to fill by key, without any adapter's.
        optional: Patterns of these keys that the file may lack.
        unused: Patterns of the file's keys that the model may lack.
        grid: Rows and columns of the model's position embeddings; a file's
            are square.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If a key of the base is missing, unknown or of another
            shape; all are listed.
    """
    source = init_cfg['checkpoint']
    table = open_table(source, init_cfg.get('prefix'))
    places = intern_vit_places(table)
    expected = expected_shapes(shapes, places.values())
    offered, remarks = {}, []
    for key, place in list(places.items()):
        if not table[key].dtype.is_floating_point:
            continue
        shape = tuple(table[key].shape)
        whole = tuple(shapes.get(place.key, shape))
        fitted = resized_shape(place.key, shape, whole)
        wanted = expected.get(str(place), fitted)
        if fitted != wanted and matches_any(optional, place.key):
            remarks.append(left_out(str(place), fitted, wanted))
            del places[key]
            continue
        offered[str(place)] = fitted
        if fitted != shape:
            remarks.append(f'{key} resized from {shape} to {fitted}')
    report = compare_keys(offered, expected, optional, unused)
    if report:
        raise misfit(source, model, str(report))
    say_remarks(source, model, remarks)
    parameters = dict(model.named_parameters())
    parts: dict[str, list[str]] = {}
    for key, place in places.items():
        if str(place) in expected:
            parts.setdefault(place.key, []).append(key)
    with torch.no_grad():
        for name, keys in parts.items():
            target = _dense(parameters[name])
            for key in keys:
                _fill(target, places[key], table[key], grid)
            if target is not parameters[name]:
                # Rounded, it would no longer tell.
                check_finite({name: target}, f"The base weights '{source}'")
                parameters[name].copy_(target)


def _dense(parameter: Tensor) -> Tensor:
    """Return a parameter to fill; for a quantized one, the whole of it.

    It is rounded at once, and is the only dense weight there is.
    """
    if not isinstance(parameter, QuantizedWeight):
        return parameter
    shape, device = parameter.shape, parameter.device
    return torch.empty(shape, dtype=parameter.dtype, device=device)


def _fill(
    parameter: Tensor,
    place: Place,
    stored: StoredTensor | Tensor,
    grid: tuple[int, int],
) -> None:
    """Write one tensor of a file to its place in the model."""
    target = place.of(parameter)
    if tuple(target.shape) != tuple(stored.shape):
        value = stored if isinstance(stored, Tensor) else stored.read()
        kernel = (target.shape[-2], target.shape[-1])
        size = grid if place.key == 'pos_embed' else kernel
        target.copy_(resized(place.key, value, size))
    elif isinstance(stored, Tensor):
        target.copy_(stored)
    else:
        stored.read_into(target)
