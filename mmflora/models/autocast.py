"""Autocast around a backbone, with float32 features out.

Heads stay in float32: operators of mmcv and mmrotate refuse bfloat16, so
autocast over a whole detector fails.  Forward hooks do it, as they leave the
backbone's class, its forward pass and its keys alone.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

AUTOCAST_DTYPES = {'bfloat16': torch.bfloat16, 'float16': torch.float16}


class AutocastScope:
    """Forward hooks that open autocast before and close it after."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self._open: list[AbstractContextManager[Any]] = []

    def enter(self, module: nn.Module, _inputs: Any) -> None:
        """Open autocast for the device of the module's parameters."""
        device = next(module.parameters()).device.type
        scope: AbstractContextManager[Any] = nullcontext()
        if torch.amp.is_autocast_available(device):  # not on meta
            scope = torch.autocast(device, dtype=self.dtype)
        scope.__enter__()
        self._open.append(scope)

    def leave(self, _module: nn.Module, _inputs: Any, outputs: Any) -> Any:
        """Close autocast and return the features in float32.

        It also runs when the forward pass raises; ``outputs`` is ``None``
        then.
        """
        if self._open:
            self._open.pop().__exit__(None, None, None)
        return _to_float32(outputs)


def run_in_autocast(backbone: nn.Module, dtype: str) -> None:
    """Make a backbone compute under autocast and return float32.

    Raises:
        ValueError: If ``dtype`` is another one.
    """
    if dtype not in AUTOCAST_DTYPES:
        raise ValueError(
            f'`autocast` is None or one of {", ".join(AUTOCAST_DTYPES)}, '
            f'got {dtype!r}.'
        )
    scope = AutocastScope(AUTOCAST_DTYPES[dtype])
    backbone.register_forward_pre_hook(scope.enter)
    backbone.register_forward_hook(scope.leave, always_call=True)


def _to_float32(outputs: Any) -> Any:
    if isinstance(outputs, Tensor):
        return outputs.float() if outputs.is_floating_point() else outputs
    if isinstance(outputs, (tuple, list)):
        return type(outputs)(_to_float32(item) for item in outputs)
    if isinstance(outputs, dict):
        return {key: _to_float32(value) for key, value in outputs.items()}
    return outputs
