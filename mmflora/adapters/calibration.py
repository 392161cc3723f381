"""One pass of training data through the frozen model, for starts."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from .calibrated import calibrated_layers
from .layers import AdaptedConv, AdaptedLinear
from .merge import disabled
from .precision import full_precision

Layers = Mapping[str, Any]


class Statistic:
    """Gathers one statistic of some layers.

    Args:
        layers: The layers by name, their adapters switched off.

    Attributes:
        totals: Sums over what was seen so far, by name.
        counts: Of how many addends they are.
    """

    def __init__(self, layers: Layers) -> None:
        self.layers = layers
        self.totals = {
            name: torch.zeros(
                self.shape(layer), dtype=_wide(layer), device=_device(layer)
            )
            for name, layer in layers.items()
        }
        self.counts = dict.fromkeys(layers, 0)

    @staticmethod
    def shape(layer: Any) -> tuple[int, ...]:
        """Return the shape of a layer's statistic."""
        raise NotImplementedError

    @staticmethod
    def drawn(values: Tensor) -> Tensor:
        """Make a possible statistic of random numbers of its shape."""
        return values

    def add(self, run: Callable[[], Tensor]) -> None:
        """Add what one batch contributes.

        Args:
            run: Runs the model on it, and returns the loss.
        """
        raise NotImplementedError

    def means(self) -> dict[str, Tensor]:
        """Return the statistic of each layer.

        Raises:
            ValueError: If a layer contributed nothing.
        """
        for name, count in self.counts.items():
            if not count:
                raise ValueError(
                    f"Calibration: the batches never reached layer '{name}' "
                    f'({type(self.layers[name].adapter).__name__}). Leave it '
                    'out with `exclude`.'
                )
        return {
            name: total / self.counts[name]
            for name, total in self.totals.items()
        }


class SecondMoment(Statistic):
    """The mean of x xᵀ over the vectors x that a weight's rows multiply.

    Of a convolution these are the patches of its input, of a grouped one
    those of all groups together.
    """

    @staticmethod
    def shape(layer: Any) -> tuple[int, ...]:
        columns = layer.base_weight().numel() // len(layer.base_weight())
        return columns, columns

    @staticmethod
    def drawn(values: Tensor) -> Tensor:
        return values @ values.T

    def add(self, run: Callable[[], Tensor]) -> None:
        with ExitStack() as stack:
            for name, layer in self.layers.items():
                hook = layer.register_forward_pre_hook(self._watch(name))
                stack.callback(hook.remove)
            with torch.no_grad():
                run()

    def _watch(self, name: str) -> Callable[[Any, Any], None]:
        def hook(layer: Any, arguments: tuple[Tensor, ...]) -> None:
            with full_precision(arguments[0].device.type):
                for rows in patches(layer, arguments[0]):
                    self.totals[name].addmm_(rows.T, rows)
                    self.counts[name] += len(rows)

        return hook


class MeanGradient(Statistic):
    """The gradient of the loss by a weight, averaged over the batches."""

    @staticmethod
    def shape(layer: Any) -> tuple[int, ...]:
        return tuple(layer.base_weight().shape)

    def add(self, run: Callable[[], Tensor]) -> None:
        names = list(self.layers)
        weights = [self.layers[name].base_weight() for name in names]
        for weight in weights:
            weight.requires_grad_(True)
        try:
            with torch.enable_grad():
                found = torch.autograd.grad(run(), weights, allow_unused=True)
        finally:
            for weight in weights:
                weight.requires_grad_(False)
        for name, gradient in zip(names, found, strict=True):
            if gradient is not None:
                self.totals[name] += gradient
                self.counts[name] += 1


STATISTICS: dict[str, type[Statistic]] = {
    'second moment': SecondMoment,
    'gradient': MeanGradient,
}
"""What an adapter can ask for, by name; a new one is one class more."""


def has_patches(kind: type[nn.Module] | None) -> bool:
    """Return whether :func:`patches` knows an adapted class."""
    known = (AdaptedLinear, AdaptedConv)
    return kind is not None and issubclass(kind, known)


def patches(layer: Any, inputs: Tensor) -> Iterator[Tensor]:
    """Yield the vectors that each row of a layer's weight multiplies.

    A convolution with the identity as its kernel cuts out its patches, with
    the layer's own stride, padding and dilation, image by image.

    Yields:
        Shape ``(vectors, in / groups · kernel)``.
    """
    weight, wide = layer.base_weight(), _wide(layer)
    if weight.dim() == 2:
        yield inputs.detach().to(wide).reshape(-1, weight.shape[1])
        return
    columns = weight.numel() // len(weight)
    kernel = torch.eye(columns, dtype=wide, device=weight.device)
    kernel = kernel.view(columns, *weight.shape[1:])
    kernel = torch.cat([kernel] * layer.groups)
    batch = inputs if inputs.dim() == weight.dim() else inputs[None]
    for number in range(len(batch)):
        image = batch[number : number + 1].detach().to(wide)
        cut = layer.compute(image, kernel, None)[0].flatten(1)
        yield from cut.view(layer.groups, columns, -1).transpose(1, 2)


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
    return list(layers)


def random_starts(model: nn.Module) -> nn.Module:
    """Give adapters that have no start yet one of random statistics.

    It is for trying methods without data.
    """
    for layer in waiting_layers(model).values():
        kind = STATISTICS[layer.adapter.statistic]
        shape = kind.shape(layer)
        rows = torch.randn(shape, dtype=_wide(layer), device=_device(layer))
        layer.adapter.calibrate(layer, kind.drawn(rows))
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
            size = torch.Size(shape).numel() * _wide(layer).itemsize
            if not found or found[-1][0] != statistic or size > room:
                found.append((statistic, {}))
                room = gigabytes * 1e9
            found[-1][1][name] = layer
            room -= size
    return found


def _wide(layer: Any) -> torch.dtype:
    return torch.promote_types(layer.base_weight().dtype, torch.float32)


def _device(layer: Any) -> torch.device:
    device: torch.device = layer.base_weight().device
    return device
