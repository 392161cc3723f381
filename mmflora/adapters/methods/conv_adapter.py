"""Conv-Adapter: a depthwise separable bottleneck beside convolutions."""

from collections.abc import Iterator
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from mmflora.registry import ADAPTERS

from ..base import CannotAdapt
from ..blocks import ChannelAdapter
from ..bottleneck import ACTIVATIONS
from ..settings import check_choice, check_count, check_flag


@ADAPTERS.register_module()
class ConvAdapter(ChannelAdapter):
    r"""A depthwise separable bottleneck beside a convolution.

    Chen et al., "Conv-Adapter: Exploring Parameter Efficient Transfer
    Learning for ConvNets" (2022):

        h ← h + α ⊙ (U ⊗ act(D ⊗ x))

    D is a grouped convolution of the size, stride, padding and dilation of
    the one that it stands beside, from C to C / γ channels in as many groups;
    U is one of 1 × 1, with biases both, and α a factor per channel, one at
    the start.  U starts at zero, unlike in the authors' code, so that the
    start is the frozen model.

    Of the paper's four designs the default is "Convolution Parallel", as in
    the authors' code.  ``sequential=True`` reads the convolution's output
    instead of its input, and ``places`` may name whole residual blocks.
    Transformers have no such convolutions.

    Args:
        block: A convolution, or a residual block of convolutions: D is like
            its largest.
        reduction: The paper's γ; the next divisor of the channels is taken.
        activation: ``'relu'``, ``'gelu'`` or ``'silu'``.
        sequential: Whether it reads the output.
        places: See :class:`ChannelAdapter`.

    Example:
        >>> adapter = dict(type='ConvAdapter', reduction=4)
        >>> residual = dict(
        ...     type='ConvAdapter', places=r'stages\.\d\.blocks\.\d+'
        ... )
    """

    paper = 'Chen et al., 2022, arXiv:2208.07463'
    places = (
        r'(.*\.)?(conv_dw|dwconv|depthwise_conv|conv2'
        r'|stages\.\d+\.downsample\.1)'
    )

    def __init__(
        self,
        block: nn.Module,
        reduction: int = 4,
        activation: str = 'gelu',
        sequential: bool = False,
        places: str | None = None,
    ) -> None:
        super().__init__(block, places)
        self.reduction = check_count('ConvAdapter', 'reduction', reduction)
        self.activation = check_choice(
            'ConvAdapter', 'activation', activation, tuple(ACTIVATIONS)
        )
        self.sequential = check_flag('ConvAdapter', 'sequential', sequential)
        conv, inputs = _largest(block)
        inputs = self.channels if sequential else inputs
        self.width = max(1, inputs // reduction)
        while inputs % self.width:
            self.width -= 1
        self.stride = (1, 1) if sequential else conv.stride
        self.padding: Any = 'same' if sequential else conv.padding
        self.dilation = conv.dilation
        own = inputs // self.width
        self.down = self.new_parameter(self.width, own, *conv.kernel_size)
        self.down_bias = self.new_parameter(self.width)
        self.up = self.new_parameter(self.channels, self.width, 1, 1)
        self.up_bias = self.new_parameter(self.channels)
        self.gain = self.new_parameter(self.channels, 1, 1)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Start as zero: U and the biases are."""
        nn.init.kaiming_uniform_(self.down, a=5**0.5)
        nn.init.ones_(self.gain)
        for parameter in (self.down_bias, self.up, self.up_bias):
            nn.init.zeros_(parameter)

    def forward(self, inputs: Tensor, output: Tensor) -> Tensor:
        """Return the block's output plus α ⊙ (U ⊗ act(D ⊗ x))."""
        x = output if self.sequential else inputs
        kind = output.dtype
        hidden = F.conv2d(
            x,
            self.down.to(kind),
            self.down_bias.to(kind),
            self.stride,
            self.padding,
            self.dilation,
            self.width,
        )
        hidden = ACTIVATIONS[self.activation](hidden)
        # The gains are multiplied in their own precision.
        up, bias = self.gain[..., None] * self.up, self.gain.flatten()
        bias = bias * self.up_bias
        return output + F.conv2d(hidden, up.to(kind), bias.to(kind))

    def core_parameters(self) -> Iterator[nn.Parameter]:
        yield self.up

    def no_decay_parameters(self) -> Iterator[nn.Parameter]:
        """Yield the gains: they start at one."""
        yield self.gain

    def meaning(self) -> dict[str, Any]:
        return dict(
            channels=self.channels,
            width=self.width,
            activation=self.activation,
            sequential=self.sequential,
        )


def _largest(block: nn.Module) -> tuple[nn.Conv2d, int]:
    """Return a block's largest convolution, and its input channels.

    Raises:
        CannotAdapt: If it has none, or one that pads in a way of its own.
    """
    layers = [
        layer
        for layer in block.modules()
        if isinstance(layer, (nn.Conv2d, nn.Linear))
    ]
    found = [layer for layer in layers if isinstance(layer, nn.Conv2d)]
    if not found:
        raise CannotAdapt('it has no convolution')
    conv = max(found, key=lambda layer: layer.kernel_size)
    if type(conv) is not nn.Conv2d or conv.padding_mode != 'zeros':
        raise CannotAdapt(f'its {type(conv).__name__} pads in its own way')
    first: Any = layers[0]
    return conv, getattr(first, 'in_channels', None) or first.in_features
