"""Ranks at which other methods train as many parameters as FLoRA does."""

from collections.abc import Callable, Iterable

from torch import nn

from mmflora.adapters import tucker_ranks

Layer = nn.Linear | nn.Conv2d
Count = Callable[[Layer, int], int]

KERNEL_RANK = 2


def count_flora(layer: Layer, rank: int) -> int:
    """Count a Tucker core and one factor per mode."""
    shape = layer.weight.shape
    ranks = tucker_ranks(shape, rank, KERNEL_RANK)
    core = 1
    for mode_rank in ranks:
        core *= mode_rank
    return core + sum(
        size * mode_rank for size, mode_rank in zip(shape, ranks, strict=True)
    )


def count_lora(layer: Layer, rank: int) -> int:
    """Count two factors, the first of them with the whole kernel (peft)."""
    weight = layer.weight
    return rank * (weight.shape[0] + weight[0].numel())


def count_dora(layer: Layer, rank: int) -> int:
    """Count LoRA's factors and one magnitude per output (peft)."""
    return count_lora(layer, rank) + layer.weight.shape[0]


def count_locon(layer: Layer, rank: int) -> int:
    """Count two factors, and between them a core with the kernel (LyCORIS)."""
    outputs, inputs, *kernel = layer.weight.shape
    window = kernel[0] * kernel[1] if kernel else 1
    core = 0 if window == 1 else rank * rank * window
    return rank * (outputs + inputs) + core


def count_loralib(layer: Layer, rank: int) -> int:
    """Count two factors of a kernel unrolled into a square (loralib)."""
    if isinstance(layer, nn.Linear):
        return count_lora(layer, rank)
    side = layer.kernel_size[0]
    rows = layer.out_channels // layer.groups
    return rank * side * side * (layer.in_channels + rows)


def matched_ranks(
    layers: Iterable[Layer], rank: int, count: Count
) -> dict[str, int]:
    """Choose a method's ranks for as many parameters as FLoRA has.

    Args:
        layers: The layers that both adapt.
        rank: FLoRA's rank.
        count: How many parameters the method has on one layer.

    Returns:
        A rank for the linear layers, which the convolutions with a kernel of
        one share, under ``'linear'``, and one for all other convolutions
        under ``'conv'``: the libraries know no finer distinction.
    """
    kinds: dict[str, list[Layer]] = {}
    for layer in layers:
        kinds.setdefault(kind_of(layer), []).append(layer)
    return {
        kind: _nearest(
            lambda value, members=members: sum(
                count(layer, value) for layer in members
            ),
            sum(count_flora(layer, rank) for layer in members),
        )
        for kind, members in kinds.items()
    }


def kind_of(layer: Layer) -> str:
    """Return which of the two ranks of a method a layer takes."""
    pointwise = isinstance(layer, nn.Linear) or layer.kernel_size == (1, 1)
    return 'linear' if pointwise else 'conv'


def _nearest(count: Callable[[int], int], target: int) -> int:
    rank = 1
    while count(rank) < target:
        rank += 1
    if rank > 1 and target - count(rank - 1) < count(rank) - target:
        rank -= 1
    return rank
