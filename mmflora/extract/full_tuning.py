"""The FLoRA adapter that is nearest to a full fine-tuning."""

import math
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from mmflora.adapter_files.adapter import record_key
from mmflora.adapters import FLoRA, adapted_layers, tucker_ranks
from mmflora.checkpoint.keys import compare_keys, float_shapes, state_shapes
from mmflora.checkpoint.record import base_records
from mmflora.checkpoint.roles import base_keys

from .nearest import lora_energy, nearest_tucker, spectrum


@dataclass
class LayerEnergy:
    """How much of one layer's ΔW an adapter explains.

    Attributes:
        layer: The layer's name.
        ranks: The adapter's rank in each mode.
        parameters: The adapter's number of parameters.
        norm: ‖ΔW‖ of the full fine-tuning.
        hosvd: The part of ‖ΔW‖² that HOSVD explains, from 0 to 1.
        flora: That after HOOI, which the adapter has.
        lora: What a LoRA of as many parameters explains at most.
        spectrum: The singular values of ΔW's unfolding along the output
            channels.
        core_spectrum: Those of the adapter's core.
    """

    layer: str
    ranks: tuple[int, ...]
    parameters: int
    norm: float
    hosvd: float
    flora: float
    lora: float
    spectrum: Tensor = field(repr=False)
    core_spectrum: Tensor = field(repr=False)


@torch.no_grad()
def extract_adapter(
    model: nn.Module,
    tuned: Mapping[str, Tensor],
    say: Callable[[str], None] = lambda _: None,
) -> list[LayerEnergy]:
    """Set a model's FLoRA adapters to the nearest of a full fine-tuning.

    Everything else that the model would train (output norms, neck, heads)
    and its buffers are taken from the fine-tuning as they are.  What it
    changed elsewhere in the base (biases, norms, layers without an adapter)
    is no update of an adapted weight and is left behind.

    Args:
        model: With FLoRA adapters over the base that was fine-tuned.
        tuned: The whole fine-tuned model's state dict, in the keys of the
            stock model.
        say: Called with a line after each layer.

    Returns:
        A row for each adapted layer.

    Raises:
        ValueError: If the model has other adapters than FLoRA's, or the
            fine-tuning lacks a key or has it in another shape; then nothing
            has changed.
    """
    layers, adapters = adapted_layers(model), flora_layers(model)
    _check_tuned(model, tuned)
    rows = []
    for number, (name, layer) in enumerate(layers.items(), start=1):
        key = f'{name}.{layer.weight_name}'
        delta = tuned[key].double() - layer.base_weight().cpu().double()
        row = _set_nearest(name, adapters[name], delta)
        rows.append(row)
        say(f'{number}/{len(layers)} {name}: {row.flora:.1%} explained')
    # A fine-tuning by mmflora has a record of its own, of another method.
    kept = base_keys(model) | set(map(record_key, base_records(model)))
    own = tuple(f'{name}.adapter.' for name in layers)
    for key, value in model.state_dict().items():
        if key in tuned and key not in kept and not key.startswith(own):
            value.copy_(tuned[key])
    return rows


def parameters_at(adapters: Iterable[FLoRA], rank: int) -> int:
    """Return the parameters that adapters would have at another rank.

    Args:
        adapters: They give the weights' shapes and the kernel ranks.
        rank: The rank of the channel modes.
    """
    total = 0
    for adapter in adapters:
        shape = adapter.weight_shape
        ranks = tucker_ranks(shape, rank, adapter.kernel_rank)
        total += math.prod(ranks)
        total += sum(d * r for d, r in zip(shape, ranks, strict=True))
    return total


def rank_for(adapters: Collection[FLoRA], budget: int) -> int:
    """Return the largest rank whose adapters keep within a budget.

    Args:
        adapters: They give the weights' shapes and the kernel ranks.
        budget: The most parameters of all adapters together.

    Raises:
        ValueError: If even rank 1 takes more.
    """
    least = parameters_at(adapters, 1)
    if least > budget:
        raise ValueError(
            f'A budget of {budget} parameters is too small: rank 1 takes '
            f'{least} in {len(adapters)} layers. Raise it, or adapt fewer '
            'layers.'
        )
    low, high = 1, max(max(adapter.weight_shape) for adapter in adapters)
    while low < high:
        middle = (low + high + 1) // 2
        if parameters_at(adapters, middle) <= budget:
            low = middle
        else:
            high = middle - 1
    return low


def _set_nearest(name: str, adapter: FLoRA, delta: Tensor) -> LayerEnergy:
    hosvd = nearest_tucker(delta, adapter.ranks, iterations=0)
    nearest = hosvd
    if delta.dim() > 2 and min(delta.shape[2:]) > 1:
        refined = nearest_tucker(delta, adapter.ranks)
        if refined.core.norm() >= hosvd.core.norm():
            nearest = refined
    adapter.core.copy_(nearest.core / adapter.scale)
    for factor, found in zip(adapter.factors, nearest.factors, strict=True):
        factor.copy_(found)
    total = float(delta.square().sum())

    def part(core: Tensor) -> float:
        return float(core.square().sum()) / total if total else 1.0

    count = sum(p.numel() for p in adapter.parameters())
    values = spectrum(delta)
    return LayerEnergy(
        name,
        adapter.ranks,
        count,
        total**0.5,
        part(hosvd.core),
        part(nearest.core),
        lora_energy(delta, count, values),
        values,
        spectrum(nearest.core),
    )


def flora_layers(model: nn.Module) -> dict[str, FLoRA]:
    """Return the FLoRA adapters of a model by the names of their layers.

    Raises:
        ValueError: If it has none, or adapters of another method.
    """
    found = {}
    for name, layer in adapted_layers(model).items():
        if not isinstance(layer.adapter, FLoRA):
            raise ValueError(
                f"Layer '{name}' has an adapter of type "
                f'{type(layer.adapter).__name__}; extraction knows FLoRA '
                'alone. Give a config of FLoRA.'
            )
        found[name] = layer.adapter
    if not found:
        raise ValueError(
            f'{type(model).__name__} has no adapted layer. Give a config '
            "whose backbone has adapter=dict(type='FLoRA', ...)."
        )
    return found


def _check_tuned(model: nn.Module, tuned: Mapping[str, Tensor]) -> None:
    adapters = tuple(f'{name}.adapter.' for name in adapted_layers(model))
    expected = {
        key: shape
        for key, shape in state_shapes(model).items()
        if not key.startswith(adapters)
    }
    report = compare_keys(float_shapes(tuned), expected)
    if report:
        raise ValueError(
            f'The fine-tuned weights do not fit {type(model).__name__}:\n'
            f'{report}\nGive the checkpoint of a full fine-tuning of the '
            "same model, with the stock model's keys."
        )
