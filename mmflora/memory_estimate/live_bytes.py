"""Counting the bytes that tensors occupy, on any device, to the byte.

Hooks on saved tensors miss what selective activation checkpointing caches and
what Python objects hold; an allocator's statistics exist on GPUs alone, and
depend on its block sizes.  Here every storage that an operator creates is
followed by a weak reference, whoever holds it, so that the count is the same
on every machine, and under ``FakeTensorMode`` without any computation.
"""

import gc
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
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
    """A weak reference to a storage, with its address and counted size."""

    __slots__ = ('address', 'counts', 'size')

    address: int
    counts: bool
    size: int


class LiveStorages(TorchDispatchMode):
    """Count the storages that operators create while the mode is on.

    A storage counts once, however many tensors view it, from the operator
    that creates it to the moment when nothing holds it any more, also after
    the mode has ended.  Of tensors made of others, such as quantised weights,
    the parts count.  Storages that were there before (parameters, inputs)
    do not count.  Buffers that an operator's own implementation allocates and
    frees are not seen.

    Attributes:
        held: Bytes that are alive now.
        peak: The most bytes that were alive at once.

    Example:
        >>> with LiveStorages() as live:
        ...     loss = model(images).sum()
        ...     activations = live.held
        ...     loss.backward()
        >>> live.peak
    """

    def __init__(self) -> None:
        super().__init__()
        self.held = 0
        self.peak = 0
        # By address: those created here, which count, and those from before.
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
        for value in tensors_in((args, kwargs)):
            self._follow(value, new=False)
        results = func(*args, **kwargs)
        for value in tensors_in(results):
            self._follow(value, new=True)
        # Operators may have resized what they were given as `out`.
        for value in tensors_in(kwargs.get('out')):
            self._follow(value, new=True)
        return results

    def _follow(self, value: Tensor, new: bool) -> None:
        if value.layout != torch.strided:
            return
        if is_traceable_wrapper_subclass(value):
            for name in value.__tensor_flatten__()[0]:
                self._follow(getattr(value, name), new)
            return
        if not self._counts(value):
            return
        storage = value.untyped_storage()
        reference = self._followed.get(storage._cdata)
        if reference is None:
            reference = _Followed(storage, self._forget)
            reference.address, reference.size = storage._cdata, 0
            reference.counts = new
            self._followed[reference.address] = reference
        if new and reference.counts:
            self._change(reference, self._size(storage) - reference.size)

    def _forget(self, reference: _Followed) -> None:
        del self._followed[reference.address]
        self._change(reference, -reference.size)

    def _counts(self, value: Tensor) -> bool:
        """Say whether to follow a tensor's storage, of whatever device."""
        return True

    def _size(self, storage: torch.UntypedStorage) -> int:
        """Return the bytes that a storage counts for."""
        return storage.nbytes()

    def _change(self, reference: _Followed, by: int) -> None:
        """Note that a storage has grown, or has gone."""
        reference.size += by
        self.held += by
        self.peak = max(self.peak, self.held)


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
    """Count the bytes of one training step.

    Args:
        forward: The forward pass.  Gradients that are not ``None`` before it
            were there before, and do not count.
        backward: The backward pass; called with what ``forward`` returns.

    Returns:
        The bytes.  They are exact: Python's garbage collector, which would
        free reference cycles at an arbitrary moment, runs between the passes
        alone.

    Example:
        >>> count_step(lambda: model(images).sum(), Tensor.backward)
    """
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        with LiveStorages() as live:
            output = forward()
            gc.collect()
            held = live.held
            backward(output)
        return StepBytes(held, live.peak)
    finally:
        if enabled:
            gc.enable()
