"""Published weights of a transformer, read into it block by block.

For models that fit in a machine's memory once: beside the model there is one
block of the file, and what stands outside of the blocks.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from mmflora.files.checksums import check_finite
from mmflora.files.sources import open_table
from mmflora.files.stored_tensors import StoredTensor

from .fit import Fit, misfit
from .keys import Shapes

Weights = dict[str, Tensor]
# What the block of a key is, in any layout.
_BLOCK = re.compile(r'(?:^|\.)(?:blocks|layers?)\.(\d+)\.')


def load_block_by_block(
    model: nn.Module,
    init_cfg: Mapping[str, Any],
    convert: Callable[[Weights], Weights],
    shapes: Shapes,
    optional: Iterable[str],
    unused: Iterable[str],
) -> None:
    """Load weights that ``convert`` takes to a model's keys, block by block.

    Nothing is written before every key has been accounted for.

    Args:
        model: Its parameters hold memory, of any float type, perhaps blank.
            Quantized ones are rounded as they are filled.
        init_cfg: ``dict(type='Pretrained', checkpoint=..., prefix=...)``;
            the checkpoint is a file, an index of shards or a folder.
        convert: Gives weights the model's keys and sizes.  It gets what
            stands outside of all blocks, one block, and the first, of which
            it may only get the shapes.
        shapes: The shapes to fill by key, without any adapter's.
        optional: Patterns of these keys that the file may lack.
        unused: Patterns of the file's keys that the model may lack.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If a key of the base is missing, unknown or of another
            shape; all are listed.
    """
    source = init_cfg['checkpoint']
    table = open_table(source, init_cfg.get('prefix'))
    optional, unused = tuple(optional), tuple(unused)
    fit = Fit(shapes, optional, unused)
    try:
        for state in _converted(table, convert, _outline):
            fit(state)
    except ValueError as error:
        raise misfit(source, model, f'  {error}') from error
    fit.note_resized({key: tuple(table[key].shape) for key in table})
    fit.conclude(source, model)
    targets = dict(model.named_parameters()) | dict(model.named_buffers())
    again = Fit(shapes, optional, unused)
    with torch.no_grad():
        for state in _converted(table, convert, _value):
            fitted = again(state)
            # Rounded, they would no longer tell.
            check_finite(fitted, f"The base weights '{source}'")
            for name in fitted.keys() & targets.keys():
                target = targets[name]
                target.copy_(fitted[name].to(target.dtype))


def _converted(
    table: Mapping[str, StoredTensor | Tensor],
    convert: Callable[[Weights], Weights],
    read: Callable[[StoredTensor | Tensor], Tensor],
) -> Iterator[Weights]:
    """Yield a file block by block; with the first, what is in none of them.

    Converters tell layouts apart by what is in no block, or in the first.
    """
    blocks: dict[str, list[str]] = {'': []}
    for key in table:
        found = _BLOCK.search(key)
        blocks.setdefault(found[1] if found else '', []).append(key)
    always = {key: _value(table[key]) for key in blocks.pop('')}
    names = sorted(blocks, key=int)
    first = blocks[names[0]] if names else []
    weights = convert(always | {key: read(table[key]) for key in first})
    done = {*weights}
    yield weights
    del weights
    always |= {key: _outline(table[key]) for key in first}
    for name in names[1:]:
        block = {key: read(table[key]) for key in blocks[name]}
        converted = convert(always | block)
        yield {key: converted[key] for key in converted.keys() - done}


def _value(stored: StoredTensor | Tensor) -> Tensor:
    return stored if isinstance(stored, Tensor) else stored.read()


def _outline(stored: StoredTensor | Tensor) -> Tensor:
    """Return a tensor of the same shape; of a matrix, without its values."""
    shape = tuple(stored.shape)
    if len(shape) < 2:  # biases, which some layouts compare
        return _value(stored)
    return torch.zeros((), dtype=stored.dtype).expand(shape)
