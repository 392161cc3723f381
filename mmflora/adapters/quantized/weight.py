"""A frozen weight that is stored quantized, as a tensor."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from mmflora.files.checksums import tensor_digest

from .dense_operators import run_on_dense
from .frozen_linear import frozen_linear
from .kernels import Stored, blank, dequantize, quantize_into
from .quantization import Scheme

_aten = torch.ops.aten


class QuantizedWeight(Tensor):
    """A quantized frozen weight that reads as a dense tensor.

    Shape, type and number of elements are those of the weight; ``nbytes`` is
    what is stored.  ``F.linear`` brings it back in the forward pass and again
    in the backward pass, and keeps no dense copy in between.  Every other
    operator sees a dense copy, which lives as long as the operator.  Copying,
    moving, saving and changing the type leave the stored numbers as they
    are.  An operator that writes to the tensor (``copy_`` of a base that is
    loaded, an initialization) makes it round the new values.  A *view* shows a
    dense copy: values that are written to the view are lost.

    Args:
        stored: The quantized numbers.
        scheme: Their meaning.
        shape: The weight's shape.
        dtype: The weight's type.
        facts: What is known of the weight that was rounded; tensors that
            share memory share it.

    Attributes:
        codes: See :class:`Stored`.
        scales: See :class:`Stored`; their type is the one that values are
            brought back to.
    """

    codes: Tensor
    scales: Tensor
    scheme: Scheme
    facts: dict[str, Any]

    @staticmethod
    def __new__(
        cls: Any,
        stored: Stored,
        scheme: Scheme,
        shape: Sequence[int],
        dtype: torch.dtype,
        facts: dict[str, Any] | None = None,
    ) -> 'QuantizedWeight':
        """Make a tensor without memory of its own around the stored parts."""
        made: QuantizedWeight = Tensor._make_wrapper_subclass(
            cls, torch.Size(shape), dtype=dtype, device=stored.codes.device
        )
        made.codes, made.scales = stored
        made.scheme = scheme
        made.facts = {} if facts is None else facts
        return made

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__()

    @classmethod
    def empty(
        cls, like: Tensor, scheme: Scheme, device: Any = None
    ) -> 'QuantizedWeight':
        """Return a weight that waits for its values."""
        where = like.device if device is None else device
        stored = blank(like.numel(), scheme, like.dtype, where)
        return cls(stored, scheme, like.shape, like.dtype)

    @property
    def origin(self) -> str:
        """:func:`tensor_digest` of what was rounded, ``''`` before that."""
        return str(self.facts.get('origin', ''))

    @property
    def error(self) -> float:
        """The relative error ‖W − W'‖ / ‖W‖ of what was rounded."""
        return float(self.facts.get('error', 0.0))

    @property
    def data(self) -> Any:
        """The same memory, outside of autograd."""
        return _detach(self)

    @data.setter
    def data(self, other: Tensor) -> None:
        if not isinstance(other, QuantizedWeight) or not _alike(self, other):
            raise TypeError(
                f'A weight in {self.scheme} takes the memory of such a weight '
                f'alone, got {other!r:.80}. Write values by copy_().'
            )
        self.codes, self.scales = other.codes, other.scales
        self.facts = other.facts

    @property
    def nbytes(self) -> int:  # type: ignore[override]
        """The bytes that are stored."""
        return self.codes.nbytes + self.scales.nbytes

    def dequantize(self) -> Tensor:
        """Return the dense weight W', in the weight's type."""
        stored = Stored(self.codes, self.scales)
        values = dequantize(stored, self.numel(), self.scheme)
        return values.view(self.shape).to(self.dtype)

    def store(self, values: Tensor) -> None:
        """Round a dense weight, and keep it in the place of the old one.

        One that is equal to what is kept changes nothing; nor does one
        without values, on the meta device or fake.

        Args:
            values: The weight; smaller shapes are expanded.

        Raises:
            MissingBitsAndBytes: If the library is not there.
            ValueError: If a value is not finite.
        """
        if any(_has_no_values(tensor) for tensor in (self.codes, values)):
            return
        if isinstance(values, QuantizedWeight):
            if _alike(self, values):
                self.codes.copy_(values.codes)
                self.scales.copy_(values.scales)
                facts = dict(values.facts)  # both may have the same ones
                self.facts.clear()
                self.facts.update(facts)
                return
            values = values.dequantize()
        dense = values.detach().to(self.device, self.scales.dtype)
        dense = dense.expand(self.shape)
        if self.origin and torch.equal(dense.to(self.dtype), self):
            return
        stored = Stored(self.codes, self.scales)
        error = quantize_into(stored, dense, self.scheme)
        self.facts.update(origin=tensor_digest(dense), error=error)

    def shares_with(self, other: Tensor) -> bool:
        """Return whether both stand on the same memory."""
        return (
            isinstance(other, QuantizedWeight)
            and self.codes.data_ptr() == other.codes.data_ptr()
        )

    def __repr__(  # type: ignore[override]
        self, *, tensor_contents: Any = None
    ) -> str:
        """Name what it is, not its many values."""
        return (
            f'{type(self).__name__}(shape={tuple(self.shape)}, '
            f'dtype={self.dtype}, device={self.device}, {self.scheme})'
        )

    def __tensor_flatten__(self) -> tuple[list[str], Any]:
        """Name the parts, for the compiler."""
        return ['codes', 'scales'], (self.scheme, self.dtype)

    @staticmethod
    def __tensor_unflatten__(
        parts: Mapping[str, Tensor], meta: Any, size: Any, stride: Any
    ) -> 'QuantizedWeight':
        """Put the parts together again, for the compiler."""
        scheme, dtype = meta
        stored = Stored(parts['codes'], parts['scales'])
        return QuantizedWeight(stored, scheme, size, dtype)

    @classmethod
    def __torch_function__(
        cls,
        func: Callable[..., Any],
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Take ``F.linear`` over, which would keep a dense weight."""
        kwargs = kwargs or {}
        if func is F.linear:
            weight = args[1] if len(args) > 1 else kwargs['weight']
            if isinstance(weight, QuantizedWeight):
                return frozen_linear(*args, **kwargs)
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **kwargs)

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls,
        func: Any,
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run an operator on the stored parts, else on a dense copy."""
        kwargs = kwargs or {}
        if func in _ON_PARTS and isinstance(args[0], QuantizedWeight):
            return _ON_PARTS[func](*args, **kwargs)
        return run_on_dense(QuantizedWeight, func, args, kwargs)


def dense(tensor: Tensor) -> Tensor:
    """Return a tensor, dense if it was quantized."""
    if isinstance(tensor, QuantizedWeight):
        return tensor.dequantize()
    return tensor


def stored_tensors(tensor: Tensor) -> list[Tensor]:
    """Return what of a tensor is in memory: its parts, or itself."""
    if isinstance(tensor, QuantizedWeight):
        return [tensor.codes, tensor.scales]
    return [tensor]


def _has_no_values(tensor: Tensor) -> bool:
    return tensor.is_meta or isinstance(tensor, FakeTensor)


def _alike(one: QuantizedWeight, two: QuantizedWeight) -> bool:
    return (
        one.scheme == two.scheme
        and one.shape == two.shape
        and one.scales.dtype == two.scales.dtype
    )


def _detach(weight: QuantizedWeight) -> QuantizedWeight:
    stored = Stored(weight.codes, weight.scales)
    return QuantizedWeight(
        stored, weight.scheme, weight.shape, weight.dtype, weight.facts
    )


def _to(weight: QuantizedWeight, **options: Any) -> Any:
    """Copy the parts; another type is one to bring the values back to."""
    dtype = options.get('dtype') or weight.dtype
    if not dtype.is_floating_point:
        return _aten._to_copy.default(weight.dequantize(), **options)
    place = {
        key: options[key]
        for key in ('device', 'pin_memory', 'non_blocking')
        if options.get(key) is not None
    }
    stored = Stored(
        _aten._to_copy.default(weight.codes, **place),
        _aten._to_copy.default(weight.scales, **place),
    )
    facts = dict(weight.facts)
    return QuantizedWeight(stored, weight.scheme, weight.shape, dtype, facts)


def _empty_like(weight: QuantizedWeight, **options: Any) -> QuantizedWeight:
    device = options.get('device') or weight.device
    stored = Stored(
        torch.empty_like(weight.codes, device=device),
        torch.empty_like(weight.scales, device=device),
    )
    dtype = options.get('dtype') or weight.dtype
    return QuantizedWeight(stored, weight.scheme, weight.shape, dtype)


def _copy(weight: QuantizedWeight, values: Tensor, *_: Any) -> QuantizedWeight:
    weight.store(values)
    return weight


_ON_PARTS: dict[Any, Callable[..., Any]] = {
    _aten.detach.default: _detach,
    _aten.alias.default: _detach,
    _aten.clone.default: _to,
    _aten._to_copy.default: _to,
    _aten.empty_like.default: _empty_like,
    _aten.copy_.default: _copy,
}


# A checkpoint that holds a base without a source holds such weights.
torch.serialization.add_safe_globals([QuantizedWeight, Scheme])
