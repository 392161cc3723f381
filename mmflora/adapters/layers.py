"""The adapted layers: a stock layer whose weight is W + ΔW.

An adapted layer is the very layer that its model built: it keeps its
parameters, names, hooks and settings, gains the child ``adapter``, and
computes with the adapted weight.  Its class changes in place, and changes
back when the adapter is removed.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .autograd import Geometry, conv, linear, low_rank_conv, low_rank_linear
from .base import Adapter, LowRank
from .cost import choose_path
from .precision import cast, compute_dtype, full_precision
from .recompute import leave_recipe


class AdaptedLayer(nn.Module):
    """What all adapted layers share.

    Attributes:
        weight: The frozen weight W, under its old name.
        bias: The frozen bias or ``None``, under its old name.
        adapter: The update of the weight.
        stock_class: The class that the layer had before.
        adapter_enabled: Whether the update counts; the frozen layer computes
            if not.
        weight_name: The name of the weight that is adapted.
        bias_name: The name of the bias that goes with it.
        channel_dim: The dimension of the output's channels, from the end.
    """

    weight: Tensor
    bias: Tensor | None
    adapter: Adapter
    stock_class: type[nn.Module]
    adapter_enabled: bool = True
    weight_name: ClassVar[str] = 'weight'
    bias_name: ClassVar[str] = 'bias'
    channel_dim: int = -1

    def base_weight(self) -> nn.Parameter:
        """Return the frozen weight W."""
        weight = self._parameters[self.weight_name]
        if weight is None:
            raise AttributeError(f'{self.weight_name} is None')
        return weight

    def base_bias(self) -> nn.Parameter | None:
        """Return the frozen bias, ``None`` where there is none."""
        return self._parameters.get(self.bias_name)

    def delta_weight(self) -> Tensor:
        """Return the adapted weight less W, in the shape of the weight."""
        if self.adapter.additive:
            return self.adapter.delta_weight()
        weight = self.base_weight()
        wide = weight.to(torch.promote_types(weight.dtype, torch.float32))
        return self.adapter.adapted_weight(wide) - wide

    def adapted_weight(self) -> Tensor:
        """Return W + ΔW, or W where the adapter is disabled."""
        if not self.adapter_enabled:
            return self.base_weight()
        return self.adapter.adapted_weight(self.base_weight())

    def adapted_bias(self) -> Tensor | None:
        """Return the adapted bias, the frozen one if it is disabled."""
        bias = self.base_bias()
        return (
            self.adapter.adapted_bias(bias) if self.adapter_enabled else (bias)
        )


class OperatorLayer(AdaptedLayer):
    """An adapted layer that applies one operator with one weight."""

    def compute(
        self, inputs: Tensor, weight: Tensor, bias: Tensor | None
    ) -> Tensor:
        """Apply the layer's operator with the given weight and bias."""
        raise NotImplementedError

    def forward(self, input: Tensor) -> Tensor:
        """Compute the layer with W + ΔW.

        With dropout in training, the update sees another input than the
        frozen weight does, which costs a second pass through the operator.
        """
        if not self.adapter_enabled:
            return self.compute(input, self.weight, self.bias)
        if self.training and self.adapter.dropout > 0:
            dropped = F.dropout(input, self.adapter.dropout)
            delta = self.delta_weight().to(self.weight.dtype)
            frozen = self.compute(input, self.weight, self.adapted_bias())
            return frozen + self.compute(dropped, delta, None)
        output = self.adapter.forward_layer(self, input)
        return self.compute_adapted(input) if output is None else output

    def compute_adapted(self, inputs: Tensor) -> Tensor:
        """Apply the operator with W + ΔW, without dropout."""
        return self.compute(inputs, self.adapted_weight(), self.adapted_bias())

    def chosen_path(self, positions: int, update: LowRank) -> str:
        """Return the path that the adapter asks for, or the cheapest."""
        if self.adapter.path != 'auto':
            return self.adapter.path
        rank = len(update.right)
        rows, columns = len(self.weight), self.weight[0].numel()
        return choose_path(positions, rows, columns, rank)


class AdaptedLinear(OperatorLayer, nn.Linear):  # type: ignore[misc]
    """``nn.Linear`` with an adapter."""

    def compute(
        self, inputs: Tensor, weight: Tensor, bias: Tensor | None
    ) -> Tensor:
        """Apply the linear map."""
        return F.linear(inputs, weight, bias)

    def compute_adapted(self, inputs: Tensor) -> Tensor:
        """Apply the linear map, by the path that the adapter allows."""
        update = None if self.weight.requires_grad else self.adapter.low_rank()
        if update is not None:
            positions = inputs.numel() // max(1, inputs.shape[-1])
            path = self.chosen_path(positions, update)
            if path != 'dense':
                scale = self.adapter.output_scale(self.weight)
                bias = self.adapted_bias()
                output = low_rank_linear(
                    inputs,
                    self.weight,
                    bias if scale is None else None,
                    *update,
                    path == 'folded',
                )
                return scale_output(output, scale, bias, self.channel_dim)
        return linear(inputs, self.adapted_weight(), self.adapted_bias())


class AdaptedConv(OperatorLayer, nn.modules.conv._ConvNd):
    """What the convolutions of one, two and three dimensions share.

    Attributes:
        lean: Whether the output of a depthwise convolution, which is cheap,
            may be rebuilt by what follows instead of being kept.
    """

    lean: bool = False

    @property
    def channel_dim(self) -> int:  # type: ignore[override]
        """The dimension of the output's channels, from the end."""
        return 1 - self.weight.dim()

    def compute(
        self, inputs: Tensor, weight: Tensor, bias: Tensor | None
    ) -> Tensor:
        """Convolve with the layer's stride, padding, dilation and groups."""
        return self._conv_forward(inputs, weight, bias)

    def compute_adapted(self, inputs: Tensor) -> Tensor:
        """Convolve by the path that the adapter allows."""
        batched = inputs.dim() == self.weight.dim()
        inputs, geometry = self._pad(inputs if batched else inputs[None])
        output = self._convolve(inputs, geometry)
        return output if batched else output[0]

    def _convolve(self, inputs: Tensor, geometry: Geometry) -> Tensor:
        update = None
        if self.groups == 1 and not self.weight.requires_grad:
            update = self.adapter.low_rank()
        if update is not None:
            positions = math.prod(inputs.shape[2:]) // math.prod(self.stride)
            path = self.chosen_path(len(inputs) * positions, update)
            if path != 'dense':
                scale = self.adapter.output_scale(self.weight)
                bias = self.adapted_bias()
                output = low_rank_conv(
                    inputs,
                    self.weight,
                    bias if scale is None else None,
                    *update,
                    geometry,
                    path == 'folded',
                )
                return scale_output(output, scale, bias, self.channel_dim)
        weight, bias = self.adapted_weight(), self.adapted_bias()
        output = conv(inputs, weight, bias, geometry)
        if self.lean and 1 < self.groups == self.in_channels:
            dtype = compute_dtype(inputs, weight)
            leaves = [inputs, weight.detach()]
            if bias is not None:
                leaves.append(bias.detach())
            leave_recipe(output, partial(_convolve, geometry, dtype), leaves)
        return output

    def _pad(self, inputs: Tensor) -> tuple[Tensor, Geometry]:
        """Return the input, padded where a convolution cannot do it."""
        padding: Any = self.padding
        sides = self._reversed_padding_repeated_twice
        symmetric = sides[::2] == sides[1::2]
        if self.padding_mode != 'zeros':
            inputs = F.pad(inputs, sides, mode=self.padding_mode)
            padding = (0,) * len(self.stride)
        elif isinstance(padding, str) and symmetric:
            padding = tuple(reversed(sides[::2]))
        elif isinstance(padding, str):
            inputs = F.pad(inputs, sides)
            padding = (0,) * len(self.stride)
        return inputs, Geometry(
            self.stride, tuple(padding), self.dilation, self.groups
        )


def scale_output(
    output: Tensor, scale: Tensor | None, bias: Tensor | None, dim: int
) -> Tensor:
    """Scale a layer's output channels and add its bias.

    The scale is not rounded to the output's type, in which small changes of
    it would be lost.

    Args:
        output: The output without bias; with it where nothing is scaled.
        scale: Shape ``(out,)`` or ``None``.
        bias: Shape ``(out,)`` or ``None``.
        dim: The dimension of the channels, from the end.
    """
    if scale is None:
        return output
    shape = (-1,) + (1,) * (-1 - dim)
    scaled = output * scale.view(shape)
    if bias is not None:
        scaled = scaled + bias.view(shape)
    return scaled.to(output.dtype)


def _convolve(
    geometry: Geometry,
    dtype: torch.dtype,
    inputs: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
) -> Tensor:
    """Convolve once more, in the precision of the first time."""
    with full_precision(inputs.device.type):
        return geometry.convolve(
            inputs.to(dtype), weight.to(dtype), cast(bias, dtype)
        )


class AdaptedConv1d(AdaptedConv, nn.Conv1d):
    """``nn.Conv1d`` with an adapter, grouped and depthwise included."""


class AdaptedConv2d(AdaptedConv, nn.Conv2d):
    """``nn.Conv2d`` with an adapter, grouped and depthwise included."""


class AdaptedConv3d(AdaptedConv, nn.Conv3d):
    """``nn.Conv3d`` with an adapter, grouped and depthwise included."""


class AdaptedConvTranspose(OperatorLayer, nn.modules.conv._ConvTransposeNd):
    """What the transposed convolutions share.

    Their weight is ``(in, out / groups, *kernel)``: the modes of an update
    are the weight's, in this order.
    """

    operator: ClassVar[Callable[..., Tensor]]

    @property
    def channel_dim(self) -> int:  # type: ignore[override]
        """The dimension of the output's channels, from the end."""
        return 1 - self.weight.dim()

    def compute(
        self,
        inputs: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        output_size: list[int] | None = None,
    ) -> Tensor:
        """Convolve with the layer's geometry and the output's size."""
        geometry: dict[str, Any] = dict(
            stride=self.stride,
            padding=self.padding,
            kernel_size=self.kernel_size,
            num_spatial_dims=len(self.stride),
            dilation=self.dilation,
        )
        output_padding = self._output_padding(inputs, output_size, **geometry)
        return type(self).operator(
            inputs,
            weight,
            bias,
            self.stride,
            self.padding,
            output_padding,
            self.groups,
            self.dilation,
        )

    def forward(
        self, input: Tensor, output_size: list[int] | None = None
    ) -> Tensor:
        """Compute the layer with W + ΔW."""
        weight, bias = self.weight, self.adapted_bias()
        if not self.adapter_enabled:
            return self.compute(input, weight, bias, output_size)
        if self.training and self.adapter.dropout:
            dropped = F.dropout(input, self.adapter.dropout)
            delta = self.delta_weight().to(weight.dtype)
            frozen = self.compute(input, weight, bias, output_size)
            return frozen + self.compute(dropped, delta, None, output_size)
        output = self.adapter.forward_layer(self, input, output_size)
        if output is not None:
            return output
        return self.compute(input, self.adapted_weight(), bias, output_size)


class AdaptedConvTranspose1d(AdaptedConvTranspose, nn.ConvTranspose1d):
    """``nn.ConvTranspose1d`` with an adapter."""

    operator = staticmethod(F.conv_transpose1d)


class AdaptedConvTranspose2d(AdaptedConvTranspose, nn.ConvTranspose2d):
    """``nn.ConvTranspose2d`` with an adapter."""

    operator = staticmethod(F.conv_transpose2d)


class AdaptedConvTranspose3d(AdaptedConvTranspose, nn.ConvTranspose3d):
    """``nn.ConvTranspose3d`` with an adapter."""

    operator = staticmethod(F.conv_transpose3d)


class AdaptedEmbedding(AdaptedLayer, nn.Embedding):
    """``nn.Embedding`` with an adapter; only the rows looked up are updated.

    Gradients are dense, also where the frozen layer asked for sparse ones.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Look up rows of W + ΔW."""
        update = self.adapter.low_rank() if self.adapter_enabled else None
        plain = (
            self.padding_idx is None
            and not self.scale_grad_by_freq
            and self.adapter.additive
        )
        if update is None or not plain:
            return self._look_up(input, self.adapted_weight())
        with full_precision(input.device.type):
            rows = self._look_up(input, update.left) @ update.right
        frozen = self._look_up(input, self.weight)
        return (frozen + rows).to(self.weight.dtype)

    def _look_up(self, indices: Tensor, table: Tensor) -> Tensor:
        return F.embedding(
            indices,
            table,
            self.padding_idx,
            scale_grad_by_freq=self.scale_grad_by_freq,
        )


class ReadLinear(AdaptedLayer, nn.Linear):
    """``nn.Linear`` whose weight its parent reads past the forward pass.

    ``F.linear(x, self.qkv.weight)``, as BEiT, EVA and Swin V2 have it, and
    PyTorch's fused kernels find W + ΔW under the old name, the adapted bias
    too.
    """

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """Return W + ΔW."""
        return self.adapted_weight()

    @property
    def bias(self) -> Tensor | None:  # type: ignore[override]
        """Return the adapted bias."""
        return self.adapted_bias()


class AdaptedMultiheadAttention(AdaptedLayer, nn.MultiheadAttention):
    """``nn.MultiheadAttention`` with an adapter of the packed projection.

    Its ``out_proj`` is a layer of its own (:class:`ReadLinear`).
    """

    weight_name = 'in_proj_weight'
    bias_name = 'in_proj_bias'

    @property
    def in_proj_bias(self) -> Tensor | None:  # type: ignore[override]
        """Return the adapted bias of queries, keys and values."""
        return self.adapted_bias()

    @property
    def in_proj_weight(self) -> Tensor:  # type: ignore[override]
        """Return W + ΔW of queries, keys and values, ``(3 E, E)``."""
        return self.adapted_weight()


ADAPTED_CLASSES: dict[type[nn.Module], type[AdaptedLayer]] = {
    nn.Linear: AdaptedLinear,
    nn.Conv1d: AdaptedConv1d,
    nn.Conv2d: AdaptedConv2d,
    nn.Conv3d: AdaptedConv3d,
    nn.ConvTranspose1d: AdaptedConvTranspose1d,
    nn.ConvTranspose2d: AdaptedConvTranspose2d,
    nn.ConvTranspose3d: AdaptedConvTranspose3d,
    nn.Embedding: AdaptedEmbedding,
    nn.MultiheadAttention: AdaptedMultiheadAttention,
}

# Subclasses that override forward() for old versions of PyTorch alone.
_EQUIVALENT_FORWARDS = {
    ('mmcv.cnn.bricks.wrappers', name)
    for name in ('Linear', 'Conv2d', 'Conv3d', 'ConvTranspose2d')
} | {('mmcv.cnn.bricks.wrappers', 'ConvTranspose3d')}
# What a subclass may define without computing anything else; beside these,
# names with double underscores (constructors, documentation).
_HARMLESS = {'reset_parameters', 'extra_repr'}


def weight_name(layer: nn.Module) -> str:
    """Return the name of the weight that an adapter of a layer updates."""
    for stock, adapted in ADAPTED_CLASSES.items():
        if isinstance(layer, stock):
            return adapted.weight_name
    return 'weight'


def adapted_class(layer: nn.Module) -> type[AdaptedLayer] | None:
    """Return the adapted class for a layer, ``None`` where there is none.

    A subclass of a supported layer counts where it changes its construction
    alone: one with a forward pass of its own (weight standardisation, dynamic
    padding) computes something else than the stock layer would, and the
    adapted class would lose whatever else it overrides.
    """
    for stock, adapted in ADAPTED_CLASSES.items():
        if not isinstance(layer, stock) or isinstance(layer, AdaptedLayer):
            continue
        kind: Any = type(layer)
        if (kind.__module__, kind.__name__) in _EQUIVALENT_FORWARDS:
            return adapted
        return None if _overrides(kind, stock) else adapted
    return None


def why_not_adapted(layer: nn.Module) -> str:
    """Return why a layer cannot be adapted, ``''`` if it can."""
    if isinstance(layer, AdaptedLayer):
        return 'it already has an adapter'
    if adapted_class(layer) is None:
        return f'{type(layer).__name__} has no adapted class'
    if isinstance(layer, nn.Embedding) and layer.max_norm is not None:
        return 'max_norm rewrites the frozen table'
    if isinstance(layer, nn.MultiheadAttention) and not isinstance(
        layer.in_proj_weight, nn.Parameter
    ):
        return 'its projections are not packed (kdim or vdim)'
    return ''


def _overrides(kind: type, stock: type) -> bool:
    """Say whether a subclass changes more than how a layer is made."""
    bases = kind.__mro__[: kind.__mro__.index(stock)]
    return any(
        name not in _HARMLESS and not name.startswith('__')
        for base in bases
        for name in vars(base)
    )


def check_adapter(
    layer: nn.Module, adapter: Adapter, read: bool = False
) -> type[AdaptedLayer]:
    """Return the class that a layer would have with an adapter.

    Args:
        layer: See :func:`adapt_layer`.
        adapter: See :func:`adapt_layer`.
        read: See :func:`adapt_layer`.

    Raises:
        TypeError: If the layer's type cannot be adapted.
        ValueError: If the adapter has dropout, and the layer no place for it.
    """
    own: Any = adapter.layer_class(layer)
    if own is not None:
        if isinstance(layer, AdaptedLayer) or read:
            raise TypeError(
                f'{type(layer).__name__} cannot be adapted: '
                + (
                    'its parent reads its weight past the forward pass.'
                    if read
                    else 'it already has an adapter.'
                )
            )
        chosen: type[AdaptedLayer] = own
        return chosen
    reason = why_not_adapted(layer)
    if reason:
        supported = ', '.join(kind.__name__ for kind in ADAPTED_CLASSES)
        raise TypeError(
            f'{type(layer).__name__} cannot be adapted ({reason}): only '
            f'{supported}, and subclasses that change their construction '
            'alone, can.'
        )
    adapted = ReadLinear if read else adapted_class(layer)
    if adapted is None or (read and not isinstance(layer, nn.Linear)):
        raise TypeError(
            f'{type(layer).__name__}: of the layers whose weight is read past '
            'their forward pass, only nn.Linear can be adapted.'
        )
    if adapter.dropout and not issubclass(adapted, OperatorLayer):
        raise ValueError(
            f'{type(layer).__name__} has no floating-point input of its own '
            f'to drop entries of, but dropout={adapter.dropout}. Give it '
            "dropout=0 through `targets`, such as {'attn': dict(dropout=0.0), "
            "'.*': {}}."
        )
    return adapted


def adapt_layer(
    layer: nn.Module, adapter: Adapter, read: bool = False
) -> AdaptedLayer:
    """Turn a layer into its adapted class, in place.

    Args:
        layer: A layer for which :func:`adapted_class` names a class.
        adapter: The update of its weight.
        read: The layer's parent reads the weight past the forward pass.

    Returns:
        The same object.

    Raises:
        TypeError: If the layer's type cannot be adapted.
        ValueError: If the adapter has dropout, and the layer no place for it.
    """
    adapted = check_adapter(layer, adapter, read)
    stock = type(layer)
    layer.__class__ = adapted
    if not isinstance(layer, AdaptedLayer):  # for the type checker
        raise TypeError(f'{adapted.__name__} is not an AdaptedLayer')
    layer.stock_class = stock
    layer.adapter = adapter
    return layer


def restore_layer(layer: AdaptedLayer) -> nn.Module:
    """Drop a layer's adapter and give the layer its stock class back."""
    stock = layer.stock_class
    del layer.adapter
    del layer.stock_class
    for name in ('adapter_enabled', 'lean'):
        vars(layer).pop(name, None)
    layer.__class__ = stock  # type: ignore[assignment]
    return layer
