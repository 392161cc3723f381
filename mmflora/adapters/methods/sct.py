"""SCT: a matrix on the channels of a block that respond most."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmflora.registry import ADAPTERS

from ..blocks import ChannelAdapter, Grid
from ..calibrated import Calibrated
from ..settings import check_count, check_factor


@ADAPTERS.register_module()
class SCT(Calibrated, ChannelAdapter):
    """A matrix on the salient channels of a sum: h_S ← h_S + s (W h_S + b).

    Zhao et al., "SCT: A Simple Baseline for Parameter-Efficient Fine-Tuning
    via Salient Channels" (IJCV 2023).  h is the sum of a block's branch and
    its shortcut, S the K channels that matter most.  How much a channel
    matters is its norm over all positions of all training images of a class,
    averaged over the classes.  It is written after the authors' code, not
    after the paper.

    Images of dense prediction have no single class: here each image counts
    as a class of its own, so the norm is averaged over images.  The channels
    are chosen once, by the calibration, and saved.  The authors place it
    behind attention or behind the MLP (0.11 M parameters in a ViT-B); by
    default it stands behind both, ``targets=r'.*attn'`` takes the first
    alone.  A ConvNeXt's blocks have one sum each.  The authors draw W; here
    it starts at zero, so that the start is the frozen model.

    It needs ``calibration`` beside ``adapter``, and cannot be merged.

    Args:
        block: The branch; the adapter stands where it is added.
        salient: K, clipped to the block's width.
        scale: s, which the authors choose by data set, from 0.1 on.
        places: See :class:`ChannelAdapter`.

    Attributes:
        chosen: S in rising order, shape ``(K,)``.
        watcher: What the calibration calls with h, its channels last.

    Raises:
        TypeError: If ``scale`` is no number.
        ValueError: If a setting is out of range.

    Example:
        >>> peft = dict(
        ...     adapter=dict(type='SCT', salient=96),
        ...     calibration=dict(batches=8),
        ... )
    """

    paper = 'Zhao et al., 2023, arXiv:2309.08513'
    places = r'(.*\.)?(attn|attention|mlp|ffn)'
    at_sum = True
    why_not_mergeable = 'it stands behind the sum of a block and its shortcut'
    chosen: Tensor

    def __init__(
        self,
        block: nn.Module,
        salient: int = 96,
        scale: float = 0.1,
        places: str | None = None,
    ) -> None:
        super().__init__(block, places)
        self.wanted = check_count('SCT', 'salient', salient)
        self.scale = check_factor('SCT', 'scale', scale)
        count = min(salient, self.channels)
        self.weight = self.new_parameter(count, count)
        self.bias = self.new_parameter(count)
        chosen = torch.arange(count, device=self.weight.device)
        self.register_buffer('chosen', chosen)
        self.watcher: Callable[[Tensor], None] | None = None
        self.ask_for('channel norms', self._like)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Start as zero."""
        nn.init.zeros_(self.weight)
        nn.init.zeros_(self.bias)

    def start_from(self, layer: nn.Module, statistic: Tensor) -> None:
        """Choose the channels of the largest norms."""
        chosen = statistic.topk(len(self.chosen)).indices.sort().values
        self.chosen.copy_(chosen)
        self.reset_parameters()

    def forward(self, inputs: Tensor, output: Tensor) -> Tensor:
        """Return h + u(h)."""
        return output + self.added(output, None)

    def added(self, x: Tensor, grid: Grid | None) -> Tensor:
        """Return s (W h_S + b) in the channels S, and zero in all others."""
        dim = self.channel_dim(x)
        if self.watcher is not None:
            self.watcher(x.movedim(dim, -1))
            return torch.zeros_like(x)
        self.check_start()
        salient = x.index_select(dim, self.chosen).movedim(dim, -1)
        kind = x.dtype
        made = F.linear(salient, self.weight.to(kind), self.bias.to(kind))
        made = (self.scale * made).movedim(-1, dim)
        return torch.zeros_like(x).index_copy(dim, self.chosen, made)

    def core_parameters(self) -> Iterator[nn.Parameter]:
        yield self.weight

    def remark(self) -> str:
        few = len(self.chosen) < self.wanted
        return f'salient clipped to {len(self.chosen)}' if few else ''

    def meaning(self) -> dict[str, Any]:
        return dict(
            channels=self.channels,
            salient=len(self.chosen),
            scale=self.scale,
        )
