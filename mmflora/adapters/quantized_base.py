"""Which weights of a base are quantized, and what that costs."""

import logging
import re
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from mmengine.logging import print_log
from torch import Tensor, nn

from .candidates import read_layers
from .layers import AdaptedLayer, ReadLayer, adapted_class
from .quantized import Quantization, QuantizedWeight, load_kernels
from .targets import check_patterns, compile_patterns, first_match

StoredWeights = list[tuple[nn.Module, str, Any]]


def quantized_weights(model: nn.Module) -> dict[str, QuantizedWeight]:
    """Return the quantized weights of a model by name."""
    return {
        name: parameter
        for name, parameter in model.named_parameters()
        if isinstance(parameter, QuantizedWeight)
    }


def linear_weights(
    model: nn.Module, quantization: Quantization
) -> dict[str, nn.Linear]:
    """Return the linear layers whose weights an option means.

    These are stock linear layers, adapted or not.  A layer whose weight is
    read otherwise, by its parent or a forward pass of its own, is left out:
    the dense copy that is read would stay alive until the backward pass.

    Raises:
        ValueError: If nothing is left, or a pattern matches no such layer.
    """
    read = read_layers(model)
    layers = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
        and name not in read
        and _called(adapted_class(module) or type(module))
    }
    if not layers:
        raise ValueError(
            f'`quantize`: {type(model).__name__} has no linear layer whose '
            'weight could be quantized (convolutions, norms and embeddings '
            'are not). Leave `quantize` out.'
        )
    targets = quantization.targets
    if targets is None:
        targets = getattr(model, 'default_targets', '.*')
    patterns = compile_patterns(targets, 'quantize.targets')
    excluded = compile_patterns(quantization.exclude, 'quantize.exclude')
    check_patterns(patterns, layers, 'quantize.targets')
    check_patterns(excluded, layers, 'quantize.exclude')
    chosen = {
        name: layer
        for name, layer in layers.items()
        if first_match(patterns, name) is not None
        and first_match(excluded, name) is None
    }
    if not chosen:
        raise ValueError(
            '`quantize`: targets and exclude together leave no layer. Leave '
            '`quantize` out.'
        )
    return chosen


def _called(kind: type[nn.Module]) -> bool:
    """Return whether an adapted class computes without its dense weight."""
    return issubclass(kind, AdaptedLayer) and not issubclass(kind, ReadLayer)


def quantize_base(
    model: nn.Module, quantization: Quantization, fill: bool = True
) -> None:
    """Quantize weights of a model, one after another, in place.

    Args:
        model: A backbone.  Weights that are quantized already stay.
        quantization: The option.
        fill: Round the weights that are there; else put zeros in their place,
            until others are loaded, which then are rounded one by one.

    Raises:
        MissingBitsAndBytes: If the library is not there.
        ValueError: If there is nothing to quantize, or an option is wrong.
    """
    layers = linear_weights(model, quantization)
    done: dict[Tensor, nn.Parameter] = {}
    for name, layer in layers.items():
        dense = layer._parameters['weight']
        if dense is None or isinstance(dense, QuantizedWeight):
            continue
        if dense not in done:
            if not dense.is_meta:
                load_kernels()
            weight = QuantizedWeight.empty(dense, quantization.scheme)
            if fill:
                _fill(name, weight, dense)
            else:
                weight.scales.zero_()
            done[dense] = nn.Parameter(weight, requires_grad=False)
        layer._parameters['weight'] = done[dense]
        del dense


def _fill(name: str, weight: QuantizedWeight, dense: Tensor) -> None:
    try:
        weight.store(dense)
    except ValueError as error:
        raise ValueError(f"Layer '{name}': {error}") from error


def check_frozen(model: nn.Module, trained: Iterable[str]) -> None:
    """Refuse to train quantized weights.

    Raises:
        ValueError: If one of them is.
    """
    stored = quantized_weights(model)
    both = [name for name in trained if name in stored]
    if both:
        raise ValueError(
            f'{len(both)} weights are to train and to be quantized: '
            f'{", ".join(both[:4])}, … A weight that trains needs all its '
            'bits. Leave these layers out with `quantize.exclude`, choose a '
            'method that trains adapters (or biases) alone, or leave '
            '`quantize` out.'
        )


def refuse_quantized(model: nn.Module, engine: str) -> None:
    """Refuse a model with quantized weights, for an engine.

    Raises:
        ValueError: If it has any.
    """
    stored = quantized_weights(model)
    if stored:
        raise ValueError(
            f'{engine} cannot spread quantized weights over processes, and '
            f'{len(stored)} are: {", ".join(list(stored)[:2])}, … Set '
            '`model.backbone.quantize=None`; or keep `quantize` and train '
            'without this engine, each process with the whole base '
            '(tools/dist_train.sh).'
        )


def kinds(weights: Iterable[str]) -> Iterator[tuple[str, list[str]]]:
    """Group names that differ in their numbers alone."""
    groups: dict[str, list[str]] = {}
    for name in weights:
        layer = name.removesuffix('.weight')
        groups.setdefault(re.sub(r'\d+', 'N', layer), []).append(name)
    yield from groups.items()


def quantization_table(model: nn.Module) -> str:
    """Return what quantizing a model's weights costs, as a text table.

    The error of a weight is ‖W − W'‖ / ‖W‖, by Frobenius norms.
    """
    weights = quantized_weights(model)
    lines = [
        f'{"layers":<32}{"weights":>9}{"parameters":>16}{"MB":>10}'
        f'{"mean error":>12}{"worst":>10}'
    ]
    lines.append('-' * len(lines[0]))
    for kind, names in kinds(weights):
        group = [weights[name] for name in names]
        errors = [weight.error for weight in group]
        lines.append(
            f'{kind:<32}{len(group):>9}'
            f'{sum(weight.numel() for weight in group):>16,}'
            f'{sum(weight.nbytes for weight in group) / 1e6:>10.1f}'
            f'{sum(errors) / len(errors):>12.5f}{max(errors):>10.5f}'
        )
    return '\n'.join(lines)


def say_quantization(model: nn.Module) -> None:
    """Log which weights are quantized, and their error, if there are any."""
    weights = quantized_weights(model)
    if not all(weight.origin for weight in weights.values()) or not weights:
        return  # nothing to say, or weights without values
    worst = max(weights, key=lambda name: weights[name].error)
    dense = sum(
        weight.numel() * weight.scales.dtype.itemsize
        for weight in weights.values()
    )
    stored = sum(weight.nbytes for weight in weights.values())
    scheme = next(iter(weights.values())).scheme
    print_log(
        f'{type(model).__name__}: {len(weights)} weights of the frozen base '
        f'are kept in {scheme}: {stored / 1e6:.1f} MB instead of '
        f"{dense / 1e6:.1f} MB. Relative error ‖W − W'‖ / ‖W‖, the largest "
        f"in '{worst.removesuffix('.weight')}':\n"
        f'{quantization_table(model)}',
        logger='current',
        level=logging.INFO,
    )


@torch.no_grad()
def dequantize_base(model: nn.Module) -> StoredWeights:
    """Give a model dense weights in the place of quantized ones.

    Returns:
        The quantized weights, each with its layer and its name there: what
        :func:`restore_base` takes.
    """
    stored: StoredWeights = []
    dense: dict[Tensor, nn.Parameter] = {}
    for module in model.modules():
        for name, weight in module._parameters.items():
            if not isinstance(weight, QuantizedWeight):
                continue
            if weight not in dense:
                dense[weight] = nn.Parameter(weight.dequantize(), False)
            stored.append((module, name, weight))
            module._parameters[name] = dense[weight]
    return stored


def restore_base(stored: StoredWeights) -> None:
    """Give layers their quantized weights back, bit for bit."""
    for module, name, weight in stored:
        module._parameters[name] = weight
