"""Mona: a bottleneck with depthwise filters behind each sum of a block."""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmflora.registry import ADAPTERS

from ..blocks import Grid
from ..bottleneck import Bottleneck
from ..settings import check_probability
from ..token_maps import on_map

_SIZES = (3, 5, 7)


@ADAPTERS.register_module()
class Mona(Bottleneck):
    """Scaled norm, then a bottleneck with depthwise filters, behind each sum.

    Yin et al., "5%>100%: Breaking Performance Shackles of Full Fine-Tuning on
    Visual Recognition Tasks" (2024).  With h the sum of a block's branch and
    its shortcut, behind attention and behind the MLP:

        n = s1 ⊙ LN(h) + s2 ⊙ h
        d = D n + d0
        f = (K3 ∗ d + K5 ∗ d + K7 ∗ d) / 3 + d      (depthwise, with biases)
        h ← h + U gelu(P f + p + f) + u0

    As in the authors' code s1 starts at 1e-6 and s2 at one, and there is
    dropout behind the activation.  Unlike there, U starts at zero, so that
    the start is the frozen model.  Class and register tokens pass by the
    depthwise filters.  A ConvNeXt's blocks have one sum each.

    Args:
        block: The branch; the adapter stands where it is added.
        dropout: Of the bottleneck's values, in training.
        **options: As for :class:`Bottleneck`.

    Example:
        >>> adapter = dict(type='Mona', width=64)
    """

    paper = 'Yin et al., 2024, arXiv:2408.08345'
    places = r'(.*\.)?(attn|attention|mlp|ffn)'
    at_sum = True
    spatial = True

    def __init__(
        self,
        block: nn.Module,
        width: int = 64,
        dropout: float = 0.1,
        places: str | None = None,
    ) -> None:
        super().__init__(block, width, 'gelu', places=places)
        self.dropout = check_probability('Mona', 'dropout', dropout)

    def make_parameters(self) -> None:
        """Make the bottleneck's, and those of norm, filters and mixer."""
        super().make_parameters()
        self.norm_weight = self.new_parameter(self.channels)
        self.norm_bias = self.new_parameter(self.channels)
        self.normed_scale = self.new_parameter(self.channels)
        self.scale_of_input = self.new_parameter(self.channels)
        for size in _SIZES:
            kernel = self.new_parameter(self.width, 1, size, size)
            self.register_parameter(f'filter{size}', kernel)
            bias = self.new_parameter(self.width)
            self.register_parameter(f'filter{size}_bias', bias)
        self.mixer = self.new_parameter(self.width, self.width)
        self.mixer_bias = self.new_parameter(self.width)

    def reset_parameters(self) -> None:
        """Start as zero: U and the biases are."""
        super().reset_parameters()
        for name, parameter in self.named_parameters():
            if name.endswith('bias'):
                nn.init.zeros_(parameter)
            elif name.startswith('filter') or name == 'mixer':
                nn.init.kaiming_uniform_(parameter, a=5**0.5)
        nn.init.ones_(self.norm_weight)
        nn.init.constant_(self.normed_scale, 1e-6)
        nn.init.ones_(self.scale_of_input)

    def forward(
        self, inputs: Tensor, output: Tensor, grid: Grid | None = None
    ) -> Tensor:
        """Return h + u(h)."""
        return output + self.added(output, grid)

    def added(self, x: Tensor, grid: Grid | None) -> Tensor:
        """Return u(h) in the shape of h, tokens or a map."""
        dim = self.channel_dim(x)
        moved = x.movedim(dim, -1)
        kind = x.dtype
        hidden = F.linear(
            self._scaled_norm(moved).to(kind),
            self.down.to(kind),
            self.down_bias.to(kind),
        )
        hidden = hidden + on_map(self._filtered, hidden, grid)
        mixed = F.linear(hidden, self.mixer.to(kind), self.mixer_bias.to(kind))
        hidden = F.dropout(F.gelu(mixed + hidden), self.dropout, self.training)
        update = F.linear(hidden, self.up.to(kind), self.up_bias.to(kind))
        return update.movedim(-1, dim)

    def _scaled_norm(self, x: Tensor) -> Tensor:
        """Return s1 ⊙ LN(h) + s2 ⊙ h, in the scales' precision."""
        wide = torch.promote_types(x.dtype, self.norm_weight.dtype)
        x = x.to(wide)
        normed = F.layer_norm(
            x, (self.channels,), self.norm_weight, self.norm_bias
        )
        return self.normed_scale * normed + self.scale_of_input * x

    def _filtered(self, x: Tensor) -> Tensor:
        """Return f - d: the mean of three filters is one of 7 x 7."""
        kernel: Any = 0
        bias: Any = 0
        for size in _SIZES:
            own = self.get_parameter(f'filter{size}')
            kernel = kernel + F.pad(own, [(7 - size) // 2] * 4)
            bias = bias + self.get_parameter(f'filter{size}_bias')
        kernel, bias = kernel.to(x.dtype) / 3, bias.to(x.dtype) / 3
        return F.conv2d(x, kernel, bias, padding=3, groups=self.width)

    def no_decay_parameters(self) -> Iterator[nn.Parameter]:
        """Yield the scales: their zero is no start."""
        yield from (self.norm_weight, self.scale_of_input)

    def meaning(self) -> dict[str, Any]:
        return dict(channels=self.channels, width=self.width)
