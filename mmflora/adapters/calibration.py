"""One pass of training data through the frozen model, for starts."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .calibrated import calibrated_layers
from .layer_statistics import STATISTICS, Layers, device_of, wide_type
from .merge import disabled


def calibrate(
    model: nn.Module,
    batches: Sequence[Any],
    loss: Callable[[Any], Tensor],
    gigabytes: float = 2.0,
    average: Callable[[Tensor], None] | None = None,
    progress: Callable[[], None] | None = None,
    layers: Layers | None = None,
) -> list[str]:
    """Give adapters whose start needs data their start.

    The batches go through the frozen model, with its adapters switched off;
    nothing trains.  An adapter that has its start already keeps it.

    Args:
        model: The model, in training mode.
        batches: Batches of training data.
        loss: Runs the model on one of them, and returns the loss.
        gigabytes: How much memory statistics may take at once; the batches
            go through the model more than once if they need more.
        average: Averages a tensor over all processes, in place.
        progress: Called after each batch of each pass.
        layers: Of which layers; by default all that have no start yet.

    Returns:
        The names of the layers that got a start.

    Raises:
        ValueError: If there are no batches, the model is not in training
            mode, or a layer is never reached.

    Example:
        >>> mmflora.inject(model, dict(type='CorDA', rank=16))
        >>> mmflora.calibrate(
        ...     model, batches, lambda batch: criterion(model(batch[0]), ...)
        ... )
    """
    if layers is None:
        layers = waiting_layers(model)
    if not layers:
        return []
    if not model.training:
        raise ValueError(
            f'{len(layers)} adapters have no start yet, and the model is in '
            'evaluation mode: their start is made before training, never at '
            'a test. Load a trained adapter first, or call model.train().'
        )
    if not len(batches):
        raise ValueError(
            f'{len(layers)} adapters need training data for their start, but '
            'there are no batches.'
        )
    for name, part in passes(layers, gigabytes):
        statistic = STATISTICS[name](part)
        with disabled(model):
            for batch in batches:
                statistic.add(lambda batch=batch: loss(batch))  # type: ignore[misc]
                if progress is not None:
                    progress()
        for own, mean in statistic.means().items():
            if average is not None:
                average(mean)
            part[own].adapter.calibrate(part[own], mean)
    _share_out(layers)
    return list(layers)


def _share_out(layers: Layers) -> None:
    """Let methods decide what concerns all of their layers."""
    adapters = [layer.adapter for layer in layers.values()]
    kinds: dict[Any, None] = dict.fromkeys(map(type, adapters))
    for kind in kinds:
        kind.share_out([one for one in adapters if type(one) is kind])


def random_starts(model: nn.Module) -> nn.Module:
    """Give adapters that have no start yet one of random statistics.

    It is for trying methods without data.
    """
    layers = waiting_layers(model)
    for layer in layers.values():
        kind = STATISTICS[layer.adapter.statistic]
        shape = kind.shape(layer)
        rows = torch.randn(
            shape, dtype=wide_type(layer), device=device_of(layer)
        )
        layer.adapter.calibrate(layer, kind.drawn(rows))
    _share_out(layers)
    return model


def waiting_layers(model: nn.Module) -> dict[str, Any]:
    """Return the layers whose adapters have no start yet, by name."""
    return {
        name: layer
        for name, layer in calibrated_layers(model).items()
        if not layer.adapter.is_calibrated
    }


def passes(
    layers: Layers, gigabytes: float
) -> list[tuple[str, dict[str, Any]]]:
    """Split layers into passes whose statistics fit into memory.

    Returns:
        The statistic and the layers of each pass; one layer at least.
    """
    found: list[tuple[str, dict[str, Any]]] = []
    used: Iterable[str] = dict.fromkeys(
        layer.adapter.statistic for layer in layers.values()
    )
    for statistic in used:
        room = 0.0
        for name, layer in layers.items():
            if layer.adapter.statistic != statistic:
                continue
            shape = STATISTICS[statistic].shape(layer)
            size = torch.Size(shape).numel() * wide_type(layer).itemsize
            if not found or found[-1][0] != statistic or size > room:
                found.append((statistic, {}))
                room = gigabytes * 1e9
            found[-1][1][name] = layer
            room -= size
    return found
