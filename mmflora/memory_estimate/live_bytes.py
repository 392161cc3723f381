"""Counting the bytes that tensors occupy, on any device, to the byte.

Hooks on saved tensors miss the caches of selective activation checkpointing
and tensors that Python objects hold.  An allocator's statistics exist on GPUs
only, and depend on its block sizes.  Here a weak reference follows every
storage that an operator creates, whatever holds it.  So the count is the same
on every machine, and works under ``FakeTensorMode`` without any computation.
"""

import gc
import weakref
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules import module as hooks
from torch.utils._python_dispatch import (
    TorchDispatchMode,
    is_traceable_wrapper_subclass,
)


def tensors_in(value: Any) -> list[Tensor]:
    """Return the tensors in an operator's arguments or results, in order."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, tuple | list):
        return [tensor for item in value for tensor in tensors_in(item)]
    if isinstance(value, dict):
        return tensors_in(list(value.values()))
    return []


class _Followed(weakref.ref):
    """A weak reference to a storage; without an owner it does not count."""

    __slots__ = ('address', 'owner', 'size')

    address: int
    owner: str | None
    size: int


class LiveStorages(TorchDispatchMode):
    """Count the storages that operators create while the mode is on.

    A storage counts once, however many tensors view it, from the operator
    that creates it to the moment when nothing holds it any more, also after
    the mode has ended.  Of tensors made of others, such as quantized weights,
    the parts count.  Storages that were there before (parameters, inputs)
    do not count.  Buffers that an operator's own implementation allocates and
    frees are not seen.

    Args:
        block: What an allocation is rounded up to, in bytes.

    Attributes:
        held: Bytes that are alive now.
        peak: The most bytes that were alive at once.
        owner: Whom the storages belong to that are created from now on.
        by_owner: Bytes that are alive now, by owner.
        at_peak: The same, at the moment of the peak.

    Example:
        >>> with LiveStorages() as live:
        ...     loss = model(images).sum()
        ...     activations = live.held
        ...     loss.backward()
        >>> live.peak
    """

    def __init__(self, block: int = 1) -> None:
        super().__init__()
        self.block = block
        self.held = 0
        self.peak = 0
        self.owner = ''
        self.by_owner: dict[str, int] = defaultdict(int)
        self.at_peak: dict[str, int] = {}
        self._followed: dict[int, _Followed] = {}

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run an operator and note the storages of its results."""
        kwargs = kwargs or {}
        if func is torch.ops.prim.device.default:  # fake tensors ask often
            return func(*args)
        # What a tensor from Python's numbers is made of is new.
        if func is not torch.ops.aten.lift_fresh.default:
            for value in tensors_in((args, kwargs)):
                self._follow(value, new=False)
        results = func(*args, **kwargs)
        # Operators may have resized what they were given as `out`.
        for value in tensors_in((results, kwargs.get('out'))):
            self._follow(value, new=True)
        return results

    def give(self, tensor: Tensor, owner: str | None) -> None:
        """Set whose a tensor's storage is, if it counts; ``None``: ignore."""
        reference = self._followed.get(tensor.untyped_storage()._cdata)
        if reference is not None and reference.owner is not None:
            size = reference.size
            self._change(reference, -size)
            reference.owner = owner
            if owner is not None:
                self._change(reference, size)

    def take_peak(self) -> dict[str, int]:
        """Return :attr:`at_peak`, without zeros, and forget the peak."""
        found = {owner: n for owner, n in self.at_peak.items() if n}
        self.peak, self.at_peak = self.held, dict(self.by_owner)
        return found

    def _follow(self, value: Tensor, new: bool) -> None:
        if value.layout != torch.strided:
            return
        if is_traceable_wrapper_subclass(value):
            for name in value.__tensor_flatten__()[0]:
                self._follow(getattr(value, name), new)
            return
        storage = value.untyped_storage()
        reference = self._followed.get(storage._cdata)
        if reference is None:
            reference = _Followed(storage, self._forget)
            reference.address, reference.size = storage._cdata, 0
            reference.owner = self.owner if new else None
            self._followed[reference.address] = reference
        if new and reference.owner is not None:
            size = -(-storage.nbytes() // self.block) * self.block
            self._change(reference, size - reference.size)

    def _forget(self, reference: _Followed) -> None:
        del self._followed[reference.address]
        if reference.owner is not None:
            self._change(reference, -reference.size)

    def _change(self, reference: _Followed, by: int) -> None:
        """Note that a storage that counts has grown, or has gone."""
        reference.size += by
        self.held += by
        self.by_owner[str(reference.owner)] += by
        if by > 0 and self.held >= self.peak:
            self.peak, self.at_peak = self.held, dict(self.by_owner)


@contextmanager
def owned_by_modules(model: nn.Module, live: LiveStorages) -> Iterator[None]:
    """Let what is created in a module's forward pass belong to it, by name.

    Also in forward passes that run again within the backward pass.
    """
    names = {id(module): name for name, module in model.named_modules()}
    outer: list[str] = []

    def enter(module: nn.Module, _inputs: Any) -> None:
        outer.append(live.owner)
        live.owner = names.get(id(module)) or live.owner

    def leave(_module: nn.Module, _inputs: Any, _outputs: Any) -> None:
        live.owner = outer.pop()

    handles = [
        hooks.register_module_forward_pre_hook(enter),
        # Recomputation leaves modules by an exception.
        hooks.register_module_forward_hook(leave, always_call=True),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def collected_by_hand() -> Iterator[None]:
    """Keep the garbage collector from freeing at a moment of its choice."""
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


class StepBytes(NamedTuple):
    """What a training step occupies beyond parameters and inputs.

    Attributes:
        held: Bytes alive between forward and backward pass: the output, and
            whatever is kept for the backward pass.
        peak: The most bytes alive at once during both passes, the gradients
            of the parameters included.
    """

    held: int
    peak: int


def count_step(
    forward: Callable[[], Any], backward: Callable[[Any], Any]
) -> StepBytes:
    """Count the bytes of one training step, exactly.

    Args:
        forward: The forward pass.  Gradients that are not ``None`` before it
            were there before, and do not count.
        backward: The backward pass; called with what ``forward`` returns.

    Example:
        >>> count_step(lambda: model(images).sum(), Tensor.backward)
    """
    with collected_by_hand(), LiveStorages() as live:
        output = forward()
        gc.collect()
        held = live.held
        backward(output)
    return StepBytes(held, live.peak)
