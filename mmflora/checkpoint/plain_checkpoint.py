"""Plain checkpoints that take the place of a frozen base."""

import logging
import re

from mmengine.logging import print_log
from torch import Tensor, nn

from .keys import compare_keys, float_shapes, state_shapes
from .layouts import unused_keys
from .record import RECORD_NAME, BaseRecord


def check_plain_checkpoint(
    module: nn.Module, record: BaseRecord, state: dict[str, Tensor]
) -> None:
    """Accept a whole base; a part of one would leave a mixture."""
    shapes = state_shapes(module)
    if any(key in shapes and key not in record.stock_shapes for key in state):
        raise ValueError(
            f'The checkpoint holds adapters without the record of their base '
            f"('{RECORD_NAME}.info'): it was changed. Take another "
            'copy of the file.'
        )
    # With its buffers: statistics of another base would not fit its weights.
    base = {
        key: shape
        for key, shape in record.stock_shapes.items()
        if key not in record.new_keys
    }
    known = (
        *record.unused,
        *unused_keys(module),
        *map(re.escape, record.new_keys),
    )
    report = compare_keys(float_shapes(state), base, ignored=known)
    if report:
        raise ValueError(
            'The checkpoint neither is an adapter checkpoint of mmflora nor '
            f'holds the whole base of {type(module).__name__}:\n{report}\n'
            'Give the checkpoint of an mmflora run, or weights for exactly '
            'this backbone.'
        )
    record.may_be_missing = tuple(key for key in shapes if key not in base)
    record.replaced = True
    # Content and source are noted when training starts over this base.
    record.set_base(None, None, 'load_from')
    print_log(
        f'The checkpoint replaces the base of {type(module).__name__}; it '
        'holds no adapters, which stay as they are (or, where their '
        'start depends on the base, start from this one).',
        logger='current',
        level=logging.WARNING,
    )
