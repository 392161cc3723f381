"""Ladder side tuning: a thin network beside the frozen backbone."""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmflora.registry import ADAPTERS

from ..settings import check_count
from ..side_network import SideNetwork, mix_channels


@ADAPTERS.register_module()
class Ladder(SideNetwork):
    r"""A thin network beside the backbone, with a rung from each block.

    Sung et al., "LST: Ladder Side-Tuning for Parameter and Memory Efficient
    Transfer Learning" (2022), section 3.2.  With h_i the output of the i-th
    frozen block, the side network's state is

        z_i = μ_i s_{i-1} + (1 - μ_i) D_i h_i        μ_i = sigmoid(α_i / 0.1)
        s_i = g_i(z_i)

    where D_i reduces the width by ``reduction``, α_i starts at zero and s_0
    is g_0 of D_0 h_0.  No gradient flows through the frozen backbone, so that
    the memory falls to what the side network takes.

    The paper's g_i are thin copies of the backbone's transformer blocks.  For
    the maps of dense prediction they are here thin convolutional blocks,
    g(z) = z + W2 gelu(W1 K ∗ LN(z)) with a depthwise 3 × 3 filter K.  Between
    stages the state is pooled to the next map, and a matrix changes its
    width.  To each output of the backbone U s is added, and U starts at
    zero: the start is the frozen model.  There is no start from pruned
    weights.  Every output needs a reader: name those that the neck reads as
    the backbone's ``out_indices``.

    Args:
        backbone: The backbone.
        reduction: The paper's r: how much thinner the network is.
        expansion: How much wider g is within.
        places: See :class:`SideNetwork`.

    Example:
        >>> adapter = dict(type='Ladder', reduction=8)
        >>> resnet = dict(type='Ladder', places=r'layer\d\.\d+')
    """

    paper = 'Sung et al., 2022, arXiv:2206.06522'

    def __init__(
        self,
        backbone: nn.Module,
        reduction: int = 8,
        expansion: int = 4,
        places: str | None = None,
    ) -> None:
        super().__init__(backbone, places)
        self.reduction = check_count('Ladder', 'reduction', reduction)
        self.expansion = check_count('Ladder', 'expansion', expansion)
        self.rungs = nn.ModuleList()
        before = 0
        for width in self.widths:
            thin = max(1, width // reduction)
            self.rungs.append(self._rung(width, thin, before))
            before = thin
        self.ups = nn.ModuleList(self._up(self.widths[i]) for i in self.ends)
        self.reset_parameters()

    def _rung(self, width: int, thin: int, before: int) -> nn.ParameterDict:
        make, wide = self.new_parameter, self.expansion * thin
        rung = nn.ParameterDict(
            dict(
                down=make(thin, width, 1, 1),
                down_bias=make(thin),
                norm=make(thin),
                norm_bias=make(thin),
                filter=make(thin, 1, 3, 3),
                filter_bias=make(thin),
                wide=make(wide, thin, 1, 1),
                wide_bias=make(wide),
                narrow=make(thin, wide, 1, 1),
                narrow_bias=make(thin),
            )
        )
        if before:
            rung['gate'] = make(1)
        if before not in (0, thin):
            rung['between'] = make(thin, before, 1, 1)
            rung['between_bias'] = make(thin)
        return rung

    def _up(self, width: int) -> nn.ParameterDict:
        thin = max(1, width // self.reduction)
        weight = self.new_parameter(width, thin, 1, 1)
        return nn.ParameterDict(
            dict(up=weight, up_bias=self.new_parameter(width))
        )

    def reset_parameters(self) -> None:
        """Start as zero: U is.  Gates start in the middle."""
        for name, parameter in self.named_parameters():
            last = name.rpartition('.')[2]
            if last == 'norm':
                nn.init.ones_(parameter)
            elif last in ('up', 'gate') or last.endswith('bias'):
                nn.init.zeros_(parameter)
            else:
                nn.init.kaiming_uniform_(parameter, a=5**0.5)

    def run(self, features: list[Tensor]) -> list[Tensor]:
        """Return U s for each output of the backbone."""
        states: list[Tensor] = []
        state: Tensor | None = None
        for rung, feature in zip(self.rungs, features, strict=True):
            state = _step(rung, feature, state)
            states.append(state)
        ups: Any = self.ups
        return [
            mix_channels(states[end], up['up'], up['up_bias'])
            for end, up in zip(self.ends, ups, strict=True)
        ]

    def core_parameters(self) -> Iterator[nn.Parameter]:
        ups: Any = self.ups
        for up in ups:
            yield up['up']

    def no_decay_parameters(self) -> Iterator[nn.Parameter]:
        """Yield the norms' scales, which start at one."""
        for name, parameter in self.named_parameters():
            if name.endswith('.norm'):
                yield parameter

    def meaning(self) -> dict[str, Any]:
        return dict(
            rungs=len(self.rungs),
            reduction=self.reduction,
            expansion=self.expansion,
        )


def _step(rung: Any, feature: Tensor, state: Tensor | None) -> Tensor:
    """Return the state behind a rung, shape ``(N, C / r, H, W)``."""
    z = mix_channels(feature, rung['down'], rung['down_bias'])
    if state is not None:
        if state.shape[-2:] != z.shape[-2:]:
            state = F.adaptive_avg_pool2d(state, (z.shape[2], z.shape[3]))
        if 'between' in rung:
            state = mix_channels(state, rung['between'], rung['between_bias'])
        share = torch.sigmoid(rung['gate'][0] / 0.1)
        z = share * state + (1 - share) * z
    normed = F.layer_norm(
        z.movedim(1, -1).to(rung['norm'].dtype),
        (z.shape[1],),
        rung['norm'],
        rung['norm_bias'],
    )
    hidden = normed.movedim(-1, 1).to(z.dtype)
    kind, thin = z.dtype, z.shape[1]
    kernel, bias = rung['filter'].to(kind), rung['filter_bias'].to(kind)
    hidden = F.conv2d(hidden, kernel, bias, padding=1, groups=thin)
    hidden = F.gelu(mix_channels(hidden, rung['wide'], rung['wide_bias']))
    return z + mix_channels(hidden, rung['narrow'], rung['narrow_bias'])
