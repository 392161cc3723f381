"""What the calibration gathers of a layer: its statistics."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from .base import CannotAdapt
from .layers import AdaptedConv, AdaptedLinear, adapted_class
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
                self.shape(layer),
                dtype=wide_type(layer),
                device=device_of(layer),
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
        trained = [weight.requires_grad for weight in weights]
        for weight in weights:
            weight.requires_grad_(True)
        try:
            with torch.enable_grad():
                found = torch.autograd.grad(run(), weights, allow_unused=True)
        finally:
            for weight, trains in zip(weights, trained, strict=True):
                weight.requires_grad_(trains)
        for name, gradient in zip(names, found, strict=True):
            if gradient is not None:
                self.totals[name] += self.term(gradient.to(self.totals[name]))
                self.counts[name] += 1

    def term(self, gradient: Tensor) -> Tensor:
        """Return what one batch's gradient adds."""
        return gradient


class Sensitivity(MeanGradient):
    """The square of a batch's gradient by a weight, averaged over the batches.

    To the first order it is how much the loss falls by a step of gradient
    descent in one entry alone.
    """

    @staticmethod
    def drawn(values: Tensor) -> Tensor:
        return values.square()

    def term(self, gradient: Tensor) -> Tensor:
        return gradient.square()


class ChannelNorms(Statistic):
    """The norm of a channel over an image, averaged over the images.

    It is that of the map on which the adapter of a block stands, which notes
    what it gets instead of adapting it.
    """

    @staticmethod
    def shape(layer: Any) -> tuple[int, ...]:
        return (layer.adapter.channels,)

    @staticmethod
    def drawn(values: Tensor) -> Tensor:
        return values.abs()

    def add(self, run: Callable[[], Tensor]) -> None:
        for name, block in self.layers.items():
            block.adapter.watcher = partial(self._note, name)
            block.adapter_enabled = True
        try:
            with torch.no_grad():
                run()
        finally:
            for block in self.layers.values():
                block.adapter.watcher = None
                block.adapter_enabled = False

    def _note(self, name: str, x: Tensor) -> None:
        """Add what images contribute, shape ``(N, ..., C)``."""
        norms = x.detach().to(self.totals[name]).flatten(1, -2).norm(dim=1)
        self.totals[name] += norms.sum(0)
        self.counts[name] += len(norms)


class Movement(Statistic):
    """How far a full fine-tuning has moved each entry of a weight.

    It is read from a checkpoint, see :mod:`mmflora.extract.ticket`.
    """

    @staticmethod
    def shape(layer: Any) -> tuple[int, ...]:
        return tuple(layer.base_weight().shape)

    @staticmethod
    def drawn(values: Tensor) -> Tensor:
        return values.abs()

    def add(self, run: Callable[[], Tensor]) -> None:
        layer = next(iter(self.layers.values()))
        raise ValueError(
            f'{type(layer.adapter).__name__}: no batches of data tell which '
            f'entries a training moves. {layer.adapter.remedy()}'
        )


STATISTICS: dict[str, type[Statistic]] = {
    'second moment': SecondMoment,
    'gradient': MeanGradient,
    'sensitivity': Sensitivity,
    'channel norms': ChannelNorms,
    'movement': Movement,
}
"""What an adapter can ask for, by name; a new one is one class more."""


def check_patches(method: str, layer: nn.Module) -> None:
    """Check that :func:`patches` knows a layer that a method is to adapt.

    Raises:
        CannotAdapt: If it does not.
    """
    kind = adapted_class(layer)
    if kind is None or not issubclass(kind, (AdaptedLinear, AdaptedConv)):
        raise CannotAdapt(
            f'{method} needs the second moment of what the rows of the '
            'weight multiply, which linear layers and convolutions have'
        )


def patches(layer: Any, inputs: Tensor) -> Iterator[Tensor]:
    """Yield the vectors that each row of a layer's weight multiplies.

    A convolution with the identity as its kernel cuts out its patches, with
    the layer's own stride, padding and dilation, image by image.

    Yields:
        Shape ``(vectors, in / groups · kernel)``.
    """
    weight, wide = layer.base_weight(), wide_type(layer)
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
        cut = AdaptedConv.compute(layer, image, kernel, None)[0].flatten(1)
        yield from cut.view(layer.groups, columns, -1).transpose(1, 2)


def wide_type(layer: Any) -> torch.dtype:
    """Return the type in which a layer's statistic is summed."""
    return torch.promote_types(_example(layer).dtype, torch.float32)


def device_of(layer: Any) -> torch.device:
    """Return the device on which a layer's weight is."""
    return _example(layer).device


def _example(layer: Any) -> Tensor:
    """Return a tensor of the type and device of a layer or block."""
    found: Tensor = (
        layer.base_weight()
        if hasattr(layer, 'base_weight')
        else layer.adapter.calibrated
    )
    return found
