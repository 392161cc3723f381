"""No checkpoint leaves a part of a model random in silence.

MMEngine's loading never fails, and building a model for a test (``Runner``,
``init_detector``, ``init_model``, the inferencers) never runs
``init_weights``.  A part that the file lacks, such as a head of other classes,
would stay random.  All these ways end in MMEngine's ``load_state_dict``, which
therefore checks first.
"""

from collections.abc import Mapping
from typing import Any

import mmengine.runner
from mmengine.model import BaseTTAModel, is_model_wrapper
from torch import nn

from .keys import KeyReport, compare_keys, float_shapes, state_shapes
from .record import base_records
from .state import INFO_KEY

_load_state_dict = mmengine.runner.load_state_dict


def guard_mmengine_loading() -> None:
    """Let MMEngine's ``load_state_dict`` refuse what would leave a gap."""
    for module in (mmengine.runner, mmengine.runner.checkpoint):
        module.load_state_dict = load_state_dict


def load_state_dict(
    module: nn.Module,
    state_dict: Mapping[str, Any],
    strict: bool = False,
    logger: Any = None,
) -> None:
    """Load as MMEngine does, if nothing of an adapted model stays random.

    Args:
        module: Checked if it is a whole model with an adapted backbone, or if
            the state dict is one's.  A model that ``init_weights()`` has
            filled starts a training: what the file lacks, or has in another
            shape, keeps its first values, and the log says so.
        state_dict: See :func:`mmengine.runner.load_state_dict`, also for the
            rest.
        strict: Whether to raise on any difference.
        logger: Where differences are told.

    Raises:
        ValueError: If a part would stay random; lists all keys.
    """
    model = without_wrappers(module)
    if _is_whole(model, state_dict):
        if _starts_training(model):
            logger = logger or 'current'
        else:
            refuse_gaps(model, state_dict)
    _load_state_dict(module, state_dict, strict, logger)


def refuse_gaps(model: nn.Module, state: Mapping[str, Any]) -> None:
    """Refuse a state dict that would leave a part of a model random.

    It may lack frozen bases if it has their records: backbones check those.

    Raises:
        ValueError: If it would; lists all keys.
    """
    report = _gaps(model, state)
    if report:
        raise ValueError(
            f'The checkpoint does not fill {type(model).__name__}, parts of '
            f'which would stay random:\n{report}\nUse the configuration that '
            'it was trained with. To start a new training from it, with '
            'other heads or classes, set `load_from` and leave out '
            '`--resume`.'
        )


def without_wrappers(model: Any) -> nn.Module:
    """Return the model inside wrappers for several processes and for tests."""
    while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
        model = model.module
    return model


def _gaps(model: nn.Module, state: Mapping[str, Any]) -> KeyReport:
    omitted = set()
    for name, (_, record) in base_records(model).items():
        prefix = f'{name}.' if name else ''
        if prefix + INFO_KEY in state:
            omitted |= {prefix + key for key in record.base_keys}
    expected = {
        key: shape
        for key, shape in state_shapes(model).items()
        if key not in omitted or key in state
    }
    return compare_keys(float_shapes(state), expected, ignored=('.*',))


def _is_whole(model: nn.Module, state: Mapping[str, Any]) -> bool:
    """Return whether a model, or the one of a state dict, is an adapted one.

    A backbone by itself checks what is loaded.  A copy without a trainable
    parameter (an averaged one) follows a model, which is checked.
    """
    records = base_records(model)
    if '' in records:
        return False
    theirs = any(key.split('.')[-2:] == _INFO for key in state)
    return (bool(records) or theirs) and any(
        parameter.requires_grad for parameter in model.parameters()
    )


_INFO = INFO_KEY.split('.')


def _starts_training(model: nn.Module) -> bool:
    """Return whether ``init_weights()`` has run, or is running."""
    return bool(getattr(model, 'is_init', False)) or hasattr(
        model, '_params_init_info'
    )
