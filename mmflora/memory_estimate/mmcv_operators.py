"""The operators of mmcv, for fake tensors."""

import importlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from .live_bytes import tensors_in


def mmcv_stand_ins(
    is_known: Callable[[Tensor], bool],
    run: Callable[[Callable[..., Any], Any, Any], Any],
) -> Iterator[tuple[Any, str, Any]]:
    """Yield mmcv's operators, which read memory, with what takes fake tensors.

    One whose arguments are all known runs with their values.  Others do
    nothing: the tensors that they would fill are there already, or are
    allocated as the operator does.  Only the suppression of boxes always
    runs, as its result depends on them.

    Args:
        is_known: Whether a tensor's values are known.
        run: Calls a function with the values of its arguments.
    """
    extension = _module('mmcv._ext')
    if extension is None:
        return

    def stand_in(name: str, function: Callable[..., Any]) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            tensors = tensors_in((args, kwargs))
            if name in _ALLOCATING:
                return _ALLOCATING[name](*args)
            # Only `nms` returns what it finds.
            if 'nms' not in name and not all(map(is_known, tensors)):
                return None
            return run(function, args, kwargs)

        return call

    for name, function in list(vars(extension).items()):
        if callable(function) and not name.startswith('_'):
            yield extension, name, stand_in(name, function)


def mmcv_gpu_choices() -> Iterator[tuple[Any, str, Any]]:
    """Yield functions of mmcv that a GPU does not call, with what it does."""
    module = _module('mmcv.ops.multi_scale_deform_attn')
    if module is None:
        return
    name = 'multi_scale_deformable_attn_pytorch'
    stock = getattr(module, name)

    def attend(value: Tensor, shapes: Tensor, *rest: Tensor) -> Tensor:
        """Attend by the kernel, which takes no bfloat16."""
        if value.dtype == torch.bfloat16:
            return stock(value, shapes, *rest)
        starts = shapes[:, 0]  # of the levels; as many, and never read
        function = module.MultiScaleDeformableAttnFunction
        return function.apply(value, shapes, starts, *rest, 1)

    yield module, name, attend


def _attended(
    value: Tensor, _shapes: Tensor, _starts: Tensor, places: Tensor, *_: Any
) -> Tensor:
    """Allocate the result of deformable attention.

    Args:
        value: Shape ``(batch, keys, heads, width)``.
        places: Shape ``(batch, queries, heads, levels, points, 2)``.

    Returns:
        Shape ``(batch, queries, heads * width)``.
    """
    heads, width = value.shape[2:]
    return value.new_zeros(*places.shape[:2], heads * width)


# Those that return what they fill.
_ALLOCATING = {'ms_deform_attn_forward': _attended}


def _module(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:  # mmcv without its operators: none will be called
        return None
