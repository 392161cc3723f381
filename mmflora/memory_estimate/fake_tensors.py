"""Tensors without memory, and the few values that a step depends on.

Fake tensors have shapes alone.  Which boxes match which anchors, how many
proposals survive, how many pixels have a label: a step branches on such
values, and its shapes follow from them.  They come from anchors, labels and
boxes, not from the network's heavy part, so that they can be followed: where
all tensors that an operator reads have known values, it runs a second time
with these, uncounted.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
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
from torch.utils._pytree import tree_leaves, tree_map_only

from .gpu_choices import gpu_choices, replaced
from .live_bytes import tensors_in
from .mmcv_operators import mmcv_stand_ins

_ATTRIBUTE = '_mmflora_value'
_aten = torch.ops.aten
# Values of tensors with up to so many elements are followed: all anchors of an
# image, for example, but no feature maps.
LARGEST = 1 << 24
# Operators that read the shape and the type of a tensor, not its values.
_SHAPE_READERS = {
    *(_aten.new_zeros, _aten.new_ones, _aten.new_full),
    *(_aten.zeros_like, _aten.ones_like, _aten.full_like),
}


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

    def is_known(self, tensor: Tensor) -> bool:
        """Return whether a tensor's values are known."""
        return not _has_no_memory(tensor) or hasattr(tensor, _ATTRIBUTE)

    def read(self, tensor: Tensor, reader: str) -> Tensor:
        """Return a tensor's values, zeros if they are unknown.

        Args:
            tensor: The tensor.
            reader: Who reads it, for :attr:`assumed`.
        """
        if not _has_no_memory(tensor):
            return tensor
        value: Tensor | None = getattr(tensor, _ATTRIBUTE, None)
        if value is None:
            self.assumed[reader] += 1
            with _disable_current_modes():
                return torch.zeros(tensor.shape, dtype=tensor.dtype)
        return value

    def take(self, tensor: Tensor, name: str) -> Any:
        """Return what a method, such as ``item``, returns for real values."""
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
        if tensor.is_floating_point() and tensor.numel() <= self.largest:
            with _disable_current_modes():
                value = torch.randn(tensor.shape).mul_(scale).to(tensor.dtype)
            self.learn(tensor, value)

    def imitate(self, value: Any) -> Any:
        """Return fake tensors for real ones, with their values known."""
        return tree_map_only(Tensor, self._imitate, value)

    def call(self, func: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Call a function with real tensors; the unknown ones are zeros."""
        args, kwargs = tree_map_only(
            Tensor, lambda leaf: self.read(leaf, str(func)), (args, kwargs)
        )
        with _disable_current_modes():
            return func(*args, **kwargs)

    def run(self, func: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Return what :meth:`call` does, as fake tensors of known values."""
        return self.imitate(self.call(func, args, kwargs))

    def _adopt(self, tensor: Tensor) -> Tensor:
        """Return a fake tensor for a real one."""
        if _has_no_memory(tensor):
            return tensor
        fake = self.fake_mode.from_tensor(tensor)
        with _disable_current_modes():
            self.learn(fake, tensor.detach())
        return fake

    def _imitate(self, real: Tensor) -> Tensor:
        fake = torch.empty_strided(
            real.size(), real.stride(), dtype=real.dtype, device='cpu'
        )
        self.learn(fake, real)
        return fake

    def _follow(self, func: Any, args: Any, kwargs: Any, results: Any) -> None:
        """Compute the values of an operator's results, if it can be done."""
        if func.overloadpacket in _SHAPE_READERS:
            args, kwargs = tree_map_only(Tensor, _any_values, (args, kwargs))
        sources = tensors_in((args, kwargs))
        written = _written(func, args, kwargs)
        outputs = tensors_in(results) + written
        followed = (
            outputs
            and all(map(self.is_known, sources))
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
        if func is not _aten.index.Tensor:
            return self.run(func, args, kwargs)
        places = [place for index in args[1] for place in self._places(index)]
        results = func(args[0], places)
        self._follow(func, (args[0], places), {}, results)
        return results

    def _places(self, index: Any) -> list[Any]:
        """Turn a mask into the indices of where it is true."""
        if index is None or index.dtype not in (torch.bool, torch.uint8):
            return [index]
        mask = self.read(index, 'index')
        with _disable_current_modes():
            places = mask.nonzero(as_tuple=True)
        return [self._imitate(place) for place in places]


def _has_no_memory(tensor: Tensor) -> bool:
    """Return whether a tensor is fake, or made of others (quantized)."""
    return isinstance(tensor, FakeTensor) or is_traceable_wrapper_subclass(
        tensor
    )


def _any_values(tensor: Tensor) -> Tensor:
    """Return a real tensor of the same shape and type, of little memory."""
    with _disable_current_modes():
        return torch.zeros((), dtype=tensor.dtype).expand(tensor.shape)


def _written(func: Any, args: Any, kwargs: Any) -> list[Tensor]:
    """Return the tensors that an operator changes in place."""
    if not func._schema.is_mutable:
        return []
    arguments = func._schema.arguments
    named = dict(zip((a.name for a in arguments), args), **kwargs)  # noqa: B905
    return [
        tensor
        for argument in arguments
        if argument.alias_info is not None and argument.alias_info.is_write
        for tensor in tensors_in(named.get(argument.name))
    ]


@contextmanager
def fake_tensors(for_gpu: bool = True) -> Iterator[KnownValues]:
    """Make every tensor a fake one.

    Args:
        for_gpu: Whether to decide as on a GPU.

    Yields:
        The mode that follows values.
    """
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    values = KnownValues(mode)

    def deepcopy(tensor: Tensor, memo: dict[int, Any]) -> Tensor:
        memo[id(tensor)] = copy = tensor.detach().clone()
        return copy.requires_grad_(tensor.requires_grad)

    with ExitStack() as stack:
        for owner, name, value in (
            (FakeTensor, 'numpy', lambda t, **_: values.take(t, 'numpy')),
            (FakeTensor, 'tolist', lambda t: values.take(t, 'tolist')),
            # Stock copies take memory along that is not there.
            (FakeTensor, '__deepcopy__', deepcopy),
            (nn.Module, '_apply', _convert),
            # Recomputation restores the state of the random numbers.
            (torch, 'get_rng_state', lambda: None),
            (torch, 'set_rng_state', lambda state: None),
            # It writes the sizes into memory that is not there.
            (torch, '_shape_as_tensor', lambda t: torch.tensor(t.shape)),
            *mmcv_stand_ins(values.is_known, values.run),
        ):
            stack.enter_context(replaced(owner, name, value))
        if for_gpu:
            stack.enter_context(gpu_choices())
        stack.enter_context(mode)
        stack.enter_context(values)
        yield values


def _convert(
    module: nn.Module, convert: Callable[[Tensor], Tensor], _: bool = True
) -> nn.Module:
    """Stand in for ``Module._apply``, which swaps memory that is not there."""
    for child in module.modules():
        for name, parameter in child._parameters.items():
            if parameter is not None:
                made = convert(parameter.detach())
                child._parameters[name] = nn.Parameter(
                    made, parameter.requires_grad
                )
        for name, buffer in child._buffers.items():
            child._buffers[name] = None if buffer is None else convert(buffer)
    return module
