"""Graphs that :mod:`mmflora.memory_estimate.graph_walk` can walk."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import Function
from torch.utils import checkpoint
from torch.utils._pytree import tree_map_only

from . import graph_walk
from .replaced import replaced


@contextmanager
def walkable_graphs() -> Iterator[None]:
    """Let graphs be walked that are built meanwhile, also within a walk."""
    with ExitStack() as stack:
        for owner, name, value in (
            (torch.autograd, 'grad', graph_walk.grad),
            (Function, 'apply', classmethod(_apply)),
            # Recomputed activations are kept per backward pass: there is one.
            (torch._C, '_current_graph_task_id', _one_pass),
        ):
            stack.enter_context(replaced(owner, name, value))
        yield


_stock_apply = vars(Function)['apply'].__func__


def _apply(kind: type[Function], *args: Any, **kwargs: Any) -> Any:
    """Call a function written in Python; return views of its results."""
    results = _stock_apply(kind, *args, **kwargs)
    if kind.__module__ == checkpoint.__name__:  # it looks for its own node
        return results
    given = {id(arg) for arg in args}
    return tree_map_only(
        Tensor,
        lambda result: (
            result
            if result.grad_fn is None or id(result) in given
            else result.view_as(result)
        ),
        results,
    )


def _one_pass() -> int:
    return 0
