"""Any operator of PyTorch on tensors that have no operators of their own."""

from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_map_only


def run_on_dense(kind: Any, func: Any, args: Any, kwargs: Any) -> Any:
    """Run an operator on dense copies; quantize again what it wrote to.

    The tensors of this kind have ``dequantize()`` and ``store()``.
    """
    copies: list[tuple[Any, Tensor]] = []

    def dense(weight: Any) -> Tensor:
        copies.append((weight, weight.dequantize()))
        return copies[-1][1]

    args, kwargs = tree_map_only(kind, dense, (args, kwargs))
    result = func(*args, **kwargs)
    if not func._schema.is_mutable:
        return result
    written = _written(func, args, kwargs)
    back = {}
    for weight, copy in copies:
        if id(copy) in written:
            weight.store(copy)
            back[id(copy)] = weight
    return tree_map_only(Tensor, lambda t: back.get(id(t), t), result)


def _written(func: Any, args: Any, kwargs: Any) -> set[int]:
    """Return the identities of the tensors that an operator writes to."""
    found: list[Tensor] = []
    for index, argument in enumerate(func._schema.arguments):
        if argument.alias_info is None or not argument.alias_info.is_write:
            continue
        given = args[index] if index < len(args) else kwargs.get(argument.name)
        tree_map_only(Tensor, found.append, given)
    return {id(tensor) for tensor in found}
