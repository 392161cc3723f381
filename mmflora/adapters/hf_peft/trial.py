"""Whether peft can adapt a layer: by trying, on a copy of its kind.

Peft refuses a layer with errors of several types, when it builds the layer or
when the layer computes.  Some combinations of method and layer give no error
and compute something else than the layer that they adapt.  So a small copy
with random weights is adapted, run, randomized, run and merged.
"""

import copy
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from .catalogue import make_config
from .graft import detach, shadow_of, wrap

# Settings under which equal layers of other names are adapted otherwise.
_BY_NAME = ('rank_pattern', 'alpha_pattern', 'feedforward_modules')


@dataclass(frozen=True)
class Verdict:
    """What a trial showed.

    Attributes:
        refusal: Why the layer cannot be adapted, ``''`` if it can.
        unmergeable: Why the adapter cannot be merged, ``''`` if it can.
        starts: Whether training starts at the frozen layer.
        follows: Whether the start depends on the frozen values.
        steady: Names of the parameters whose zero is not the frozen layer,
            which weight decay must leave alone.
    """

    refusal: str = ''
    unmergeable: str = ''
    starts: bool = True
    follows: bool = False
    steady: frozenset[str] = frozenset()


class Trials:
    """Trials of one method with its settings.

    Equal layers are tried once in a process.
    """

    _known: ClassVar[dict[Any, Verdict]] = {}

    def __init__(self, peft_type: str, options: Mapping[str, Any]) -> None:
        self.peft_type = peft_type
        self.options = options
        self._by_name = any(options.get(name) for name in _BY_NAME)
        self._method: Any = (peft_type.upper(), _as_text(options))

    def verdict(self, name: str, layer: nn.Module) -> Verdict:
        """Return whether a layer can be adapted, and merged."""
        kind = (
            self._method,
            name if self._by_name else '',
            type(layer),
            layer.extra_repr(),
            tuple(
                (key, value.shape, value.dtype)
                for key, value in layer._parameters.items()
                if value is not None
            ),
        )
        if kind not in self._known:
            with (
                torch.random.fork_rng(devices=[]),
                torch.enable_grad(),
                torch.device('cpu'),  # a model may be built on another
            ):
                self._known[kind] = self._try(name, layer)
        return self._known[kind]

    def _try(self, name: str, layer: nn.Module) -> Verdict:
        if not _dimensions(layer):
            return Verdict(f'peft adapts no {type(layer).__name__} as a whole')
        if any(value is not None for value in layer._buffers.values()):
            return Verdict('it keeps statistics, which peft would double')
        if self.peft_type.upper() == 'LN_TUNING' and _dimensions(layer) > 1:
            return Verdict('LN_TUNING trains norm layers alone')
        base = _random_copy(layer)
        before = {key: p.clone() for key, p in base.named_parameters()}
        try:
            wrapped = self._wrap(name, base)
            other = self._wrap(name, _random_copy(layer))
        except MemoryError:
            raise
        except Exception as error:  # peft's refusals have every type
            return Verdict(_reason(error, layer))
        if not hasattr(wrapped, 'get_base_layer'):
            return Verdict(f'peft passes over {type(layer).__name__}')
        for key, parameter in base.named_parameters():
            if not torch.equal(parameter, before[key]):
                return Verdict(
                    'with these options it rewrites the frozen weight, which '
                    "mmflora's own PiSSA and OLoRA leave as it is"
                )
        follows = _differ(wrapped, other)
        return replace(_compare(wrapped, base, name), follows=follows)

    def _wrap(self, name: str, base: nn.Module) -> Any:
        """Let peft adapt a layer, with the same random numbers each time."""
        config = make_config(self.peft_type, self.options, [name])
        torch.manual_seed(0)
        return wrap(config, {name: shadow_of(base)})[name]


def _as_text(options: Mapping[str, Any]) -> Any:
    """Return settings as text, or an object that equals nothing else."""
    try:
        return json.dumps(dict(options), sort_keys=True)
    except TypeError:  # objects that no text describes fully
        return object()


def _differ(one: Any, other: Any) -> bool:
    """Return whether two of peft's layers start at different values."""
    values = dict(other.named_parameters()) | dict(other.named_buffers())
    for key, value in [*one.named_parameters(), *one.named_buffers()]:
        if key.startswith('base_layer.'):
            continue
        if key not in values or not torch.equal(value, values[key]):
            return True
    return False


def _compare(wrapped: Any, base: nn.Module, name: str) -> Verdict:
    """Compare an adapted layer at its start with its base, then merged."""
    inputs = example_input(base)
    wrapped.eval()
    try:
        with torch.no_grad():
            expected = base(inputs)
            start = wrapped(inputs)
            steady = _steady(wrapped, inputs, expected)
            _randomize(wrapped)
            adapted = wrapped(inputs)
    except Exception as error:
        return Verdict(f'it fails there, {_reason(error, base)}')
    if not adapted.isfinite().all():
        return Verdict('with these options it computes what is not finite')
    if adapted.shape != expected.shape:
        return Verdict(f'its output would have shape {tuple(adapted.shape)}')
    detach({name: wrapped})
    unmergeable = _why_unmergeable(wrapped, inputs, adapted)
    starts = _close(start, expected)
    if unmergeable and not starts:
        return Verdict(
            "peft's layer computes something else than the layer it adapts"
        )
    return Verdict(unmergeable=unmergeable, starts=starts, steady=steady)


def _steady(wrapped: Any, inputs: Tensor, expected: Tensor) -> frozenset[str]:
    """Set each trained parameter to zero, to see where decay would lead."""
    names = set()
    for name, parameter in wrapped.named_parameters():
        if not parameter.requires_grad or name.startswith('base_layer.'):
            continue
        value = parameter.clone()
        parameter.zero_()
        try:
            frozen = _close(wrapped(inputs), expected)
        except Exception:  # such as a division by its norm
            frozen = False
        parameter.copy_(value)
        if not frozen:
            names.add(name)
    return frozenset(names)


def _why_unmergeable(wrapped: Any, inputs: Tensor, adapted: Tensor) -> str:
    try:
        merged = merged_base(wrapped, wrapped.base_layer._parameters)
        with torch.no_grad():
            output = merged(inputs)
    except NotImplementedError as error:
        return str(error) or 'peft has no merge for it'
    except Exception as error:
        return _reason(error, wrapped.get_base_layer())
    if not _close(output, adapted):
        return "peft's merged layer computes something else"
    return ''


@torch.no_grad()
def merged_base(
    wrapped: Any, parameters: Mapping[str, Tensor | None]
) -> nn.Module:
    """Let peft merge a copy of its layer into a copy of the base layer.

    Returns:
        A plain layer.
    """
    base = wrapped.base_layer
    stand_in = shadow_of(base)
    stand_in.__dict__['_parameters'] = {
        name: None if value is None else nn.Parameter(value.detach().clone())
        for name, value in parameters.items()
    }
    # Known to the copy, so that the base layer is not copied once more.
    copied = copy.deepcopy(wrapped, {id(base): stand_in})
    copied.merge()
    merged: nn.Module = copied.get_base_layer()
    return merged


def example_input(layer: nn.Module) -> Tensor:
    """Return a small random input for a layer, in its type."""
    weight = layer.get_parameter('weight')
    dtype = weight.dtype
    if isinstance(layer, nn.Embedding):
        return torch.randint(layer.num_embeddings, (5,))
    if isinstance(layer, nn.modules.conv._ConvNd):
        # At a stride's double, a padding that is left out changes the size
        # of the output, and not to one, which would be broadcast.
        reach = [
            dilation * (kernel - 1) + 2 * stride
            for dilation, kernel, stride in zip(
                layer.dilation, layer.kernel_size, layer.stride, strict=True
            )
        ]
        return torch.randn(2, layer.in_channels, *reach, dtype=dtype)
    if isinstance(layer, nn.Linear):
        return torch.randn(3, layer.in_features, dtype=dtype)
    if isinstance(layer, nn.GroupNorm) or type(layer).__name__.endswith('2d'):
        return torch.randn(2, len(weight), 3, 3, dtype=dtype)
    return torch.randn(3, *weight.shape, dtype=dtype)


def _dimensions(layer: nn.Module) -> int:
    weight = layer._parameters.get('weight')
    return 0 if weight is None else weight.dim()


def _random_copy(layer: nn.Module) -> nn.Module:
    """Return a layer of the same kind with random parameters.

    They are of single precision at least, on the CPU.
    """
    other = shadow_of(layer)
    other.__dict__['_parameters'] = {
        name: None if value is None else nn.Parameter(_random(value))
        for name, value in layer._parameters.items()
    }
    return other.eval()


def _random(parameter: Tensor) -> Tensor:
    """Draw a parameter of the size that trained ones have."""
    fan = parameter[0].numel() if parameter.dim() > 1 else 1
    dtype = torch.promote_types(parameter.dtype, torch.float32)
    return torch.randn(parameter.shape, dtype=dtype) / max(1.0, fan**0.5)


def _randomize(wrapped: Any) -> None:
    for name, parameter in wrapped.named_parameters():
        if parameter.requires_grad and not name.startswith('base_layer.'):
            parameter.add_(torch.randn_like(parameter), alpha=0.1)


def _close(one: Tensor, other: Tensor) -> bool:
    """Return whether results are equal up to rounding in single precision."""
    scale = max(1.0, float(other.abs().max()))
    return bool((one - other).abs().max() <= 1e-3 * scale)


def _reason(error: Exception, layer: nn.Module) -> str:
    """Return the first line of a refusal, without the layer's long text."""
    kind = type(layer).__name__
    if isinstance(error, KeyError):
        return f'peft passes over {kind}'
    text = str(error).replace(str(layer), kind).strip().split('\n')[0]
    if len(text) > 160:
        text = text[:160].rsplit('. ', 1)[0]
    return f'peft: {text.rstrip(".") or type(error).__name__}'
