"""The few values that a training step's course depends on.

Fake tensors have shapes alone.  Which boxes match which anchors, how many
proposals survive, how many pixels have a label: a step branches on such
values, and its shapes follow from them.  They come from anchors, labels and
boxes, not from the network's heavy part, so that they can be followed: where
all tensors that an operator reads have known values, it runs a second time
with these, on the CPU, uncounted.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensor,
    FakeTensorMode,
)
from torch.utils._python_dispatch import (
    TorchDispatchMode,
    _disable_current_modes,
    is_traceable_wrapper_subclass,
)
from torch.utils._pytree import tree_leaves, tree_map, tree_map_only

from .live_bytes import tensors_in

_ATTRIBUTE = '_mmflora_value'
_aten = torch.ops.aten
# Followed are tensors of up to so many elements: all anchors of an image,
# say, but no feature maps.
LARGEST = 1 << 24


class KnownValues(TorchDispatchMode):
    """Follow values beside the fake tensors of a mode.

    Args:
        fake_mode: The mode, which must have been entered before this one.

    Attributes:
        largest: Tensors of more elements are not followed; 0 follows none.
        assumed: How often a value was read that is not known, by operator;
            it was taken for zero.
    """

    def __init__(self, fake_mode: FakeTensorMode) -> None:
        super().__init__()
        self.fake_mode = fake_mode
        self.largest = LARGEST
        self.assumed: Counter[str] = Counter()

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: Any = (),
        kwargs: Any = None,
    ) -> Any:
        """Run an operator, and again with known values if there are."""
        kwargs = kwargs or {}
        if func is torch.ops.prim.device.default:
            return args[0].fake_device
        if func is _aten._local_scalar_dense.default:
            return self.take(args[0], 'item')
        if any(type(t) is not FakeTensor for t in tensors_in((args, kwargs))):
            args, kwargs = tree_map_only(Tensor, self._adopt, (args, kwargs))
        try:
            results = func(*args, **kwargs)
        except (DataDependentOutputException, DynamicOutputShapeException):
            return self._decide(func, args, kwargs)
        if self.largest:
            self._follow(func, args, kwargs, results)
        return results

    @contextmanager
    def up_to(self, largest: int) -> Iterator[None]:
        """Follow tensors of up to so many elements for a while."""
        before, self.largest = self.largest, largest
        try:
            yield
        finally:
            self.largest = before

    def is_known(self, tensor: Tensor) -> bool:
        """Say whether a tensor's values are known."""
        if isinstance(tensor, FakeTensor) or _is_composed(tensor):
            return hasattr(tensor, _ATTRIBUTE)
        return True

    def read(self, tensor: Tensor, reader: str) -> Tensor:
        """Return a tensor's values on the CPU, zeros if they are unknown.

        Args:
            tensor: The tensor.
            reader: Who reads it, for :attr:`assumed`.
        """
        if not (isinstance(tensor, FakeTensor) or _is_composed(tensor)):
            return tensor
        value: Tensor | None = getattr(tensor, _ATTRIBUTE, None)
        if value is None:
            self.assumed[reader] += 1
            with _disable_current_modes():
                return torch.zeros(tensor.shape, dtype=tensor.dtype)
        return value

    def take(self, tensor: Tensor, name: str) -> Any:
        """Return what a real tensor's method returns for a tensor's values.

        Args:
            tensor: The tensor.
            name: The method: ``item``, ``numpy``, ``tolist``.
        """
        value = self.read(tensor, name)
        with _disable_current_modes():
            return getattr(value, name)()

    def learn(self, tensor: Tensor, value: Tensor) -> None:
        """Let a fake tensor have these values."""
        setattr(tensor, _ATTRIBUTE, value)

    def forget(self, tensor: Tensor) -> None:
        """Let the values of a tensor be unknown."""
        if hasattr(tensor, _ATTRIBUTE):
            delattr(tensor, _ATTRIBUTE)

    def draw(self, tensor: Tensor, scale: float) -> None:
        """Let an unknown tensor have small random values."""
        if (
            isinstance(tensor, FakeTensor)
            and tensor.is_floating_point()
            and tensor.numel() <= self.largest
        ):
            with _disable_current_modes():
                value = torch.randn(tensor.shape).mul_(scale).to(tensor.dtype)
            self.learn(tensor, value)

    def imitate(self, value: Any, device: torch.device) -> Any:
        """Return fake tensors on a device for real ones, values known."""
        return tree_map_only(Tensor, lambda t: self._imitate(t, device), value)

    def call(self, func: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Call a function with real tensors; the unknown ones are zeros."""
        name = str(func)
        args, kwargs = tree_map(
            lambda leaf: self._real(leaf, name), (args, kwargs)
        )
        with _disable_current_modes():
            return func(*args, **kwargs)

    def _real(self, leaf: Any, name: str) -> Any:
        if isinstance(leaf, torch.device):
            return torch.device('cpu')
        return self.read(leaf, name) if isinstance(leaf, Tensor) else leaf

    def _adopt(self, tensor: Tensor) -> Tensor:
        """Return a fake tensor for a real one."""
        if isinstance(tensor, FakeTensor) or _is_composed(tensor):
            return tensor
        fake = self.fake_mode.from_tensor(tensor)
        with _disable_current_modes():
            self.learn(fake, tensor.detach())
        return fake

    def _imitate(self, real: Tensor, device: torch.device) -> Tensor:
        fake = torch.empty_strided(
            real.size(), real.stride(), dtype=real.dtype, device=device
        )
        self.learn(fake, real)
        return fake

    def _follow(self, func: Any, args: Any, kwargs: Any, results: Any) -> None:
        """Compute the values of an operator's results, if it can be done."""
        sources = tensors_in((args, kwargs))
        written = _written(func, args, kwargs)
        outputs = tensors_in(results) + written
        followed = (
            outputs
            and all(self.is_known(source) for source in sources)
            and all(output.numel() <= self.largest for output in outputs)
            and (sources or 'empty' not in str(func))
        )
        if not followed:
            for tensor in written:
                self.forget(tensor)
            return
        values = self.call(func, args, kwargs)
        for fake, value in zip(
            tree_leaves(results), tree_leaves(values), strict=True
        ):
            if isinstance(fake, FakeTensor):
                self.learn(fake, value)

    def _decide(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Run an operator whose result's shape depends on values."""
        device = tensors_in((args, kwargs))[0].device
        if func is _aten.index.Tensor:
            places = [
                place
                for index in args[1]
                for place in self._places(index, device)
            ]
            results = func(args[0], places)
            self._follow(func, (args[0], places), {}, results)
            return results
        return self.imitate(self.call(func, args, kwargs), device)

    def _places(self, index: Any, device: torch.device) -> list[Any]:
        """Turn a mask into the indices of where it is true."""
        if index is None or index.dtype not in (torch.bool, torch.uint8):
            return [index]
        mask = self.read(index, 'index')
        with _disable_current_modes():
            places = mask.nonzero(as_tuple=True)
        return [self._imitate(place, device) for place in places]


def _is_composed(tensor: Tensor) -> bool:
    """Say whether a tensor is made of others, as quantised weights are."""
    composed: bool = is_traceable_wrapper_subclass(tensor)
    return composed


def _written(func: Any, args: Any, kwargs: Any) -> list[Tensor]:
    """Return the tensors that an operator changes in place."""
    schema = getattr(func, '_schema', None)
    if schema is None or not schema.is_mutable:
        return []
    named = dict(
        zip((argument.name for argument in schema.arguments), args),  # noqa: B905
        **kwargs,
    )
    return [
        tensor
        for argument in schema.arguments
        if argument.alias_info is not None and argument.alias_info.is_write
        for tensor in tensors_in(named.get(argument.name))
    ]
