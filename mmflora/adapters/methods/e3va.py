"""E³VA: low-rank adapters on a highway beside the backbone."""

from collections.abc import Iterator
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from mmflora.registry import ADAPTERS

from ..settings import check_count
from ..side_network import SideNetwork, mix_channels
from ..stage_joins import through_join


@ADAPTERS.register_module()
class E3VA(SideNetwork):
    r"""Adapters of low rank beside the backbone, and a sum of what they make.

    Yin et al., "Parameter-efficient is not sufficient: Exploring Parameter,
    Memory, and Time Efficient Adapter Tuning for Dense Predictions" (2023).
    Adapters stand in parallel on a highway beside the blocks.  Each reads
    what the frozen block makes of attention and of its MLP; between stages
    the highway goes through the backbone's own, frozen downsampling layers,
    and at the end through trainable norms.  No gradient flows through the
    frozen blocks, and the way from a loss to an adapter is short.  With h the
    frozen sum behind attention or MLP, x the last of a stage, and z what the
    adapters have made so far (zero at first):

        z ← z + U gelu(D h + d) + u        D = D2 D1, U = U2 U1
        z ← T(x + z) - T(x)                between stages
        out ← out + γ ⊙ (LN(x + z) - LN(x))

    "Dual low rank" is that both matrices of an adapter are products of thin
    ones.  Only the abstract, the overview of the structure and a review of
    the paper were at hand.  What they leave open is chosen: the adapters read
    the sums with their shortcuts; x + z is the stream that goes through T and
    the norms, and what the frozen stream alone gives is taken off, so that
    the start, U2 = 0 and γ = 1, is the frozen model.  The width of D is half
    of the block's.  A ConvNeXt's blocks have one sum each.

    Every output needs a reader, see :class:`Ladder`.  Backbones whose stages
    are joined otherwise than by layers called ``downsample`` are refused.

    Args:
        backbone: The backbone.
        rank: The inner size of D2 D1 and of U2 U1.
        places: See :class:`SideNetwork`.

    Raises:
        CannotAdapt: If there are no such blocks, or no such layers between
            the stages.
        ValueError: If the rank is below 1 or no integer.

    Example:
        >>> adapter = dict(type='E3VA', rank=8)
    """

    paper = 'Yin et al., 2023, arXiv:2306.09729'
    behind_attention = True
    through_stages = True

    def __init__(
        self, backbone: nn.Module, rank: int = 8, places: str | None = None
    ) -> None:
        super().__init__(backbone, places)
        self.rank = check_count('E3VA', 'rank', rank)
        self.adapters = nn.ModuleList(
            self._adapter(width)
            for width, count in zip(self.widths, self.counts, strict=True)
            for _ in range(count)
        )
        self.norms = nn.ParameterList(
            self.new_parameter(self.widths[end]) for end in self.ends
        )
        self.reset_parameters()

    def _adapter(self, width: int) -> nn.ParameterDict:
        make, hidden = self.new_parameter, max(1, width // 2)
        rank = min(self.rank, hidden)
        return nn.ParameterDict(
            dict(
                down1=make(rank, width, 1, 1),
                down2=make(hidden, rank, 1, 1),
                down_bias=make(hidden),
                up1=make(rank, hidden, 1, 1),
                up2=make(width, rank, 1, 1),
                up_bias=make(width),
            )
        )

    def reset_parameters(self) -> None:
        """Start as zero: U2 is, and so are all biases."""
        for name, parameter in self.named_parameters():
            last = name.rpartition('.')[2]
            if name.startswith('norms'):
                nn.init.ones_(parameter)
            elif last == 'up2' or last.endswith('bias'):
                nn.init.zeros_(parameter)
            else:
                nn.init.kaiming_uniform_(parameter, a=5**0.5)

    def run(self, features: list[Tensor]) -> list[Tensor]:
        """Return γ ⊙ (LN(x + z) - LN(x)) for each output of the backbone."""
        maps = zip(self.adapters, features, strict=True)
        joins, wide = vars(self)['joins'], self.norms[0].dtype
        streams: list[tuple[Tensor, Tensor]] = []
        z: Any = 0
        for index, count in enumerate(self.counts):
            for number in range(count):
                adapter, x = next(maps)
                if index in joins and number == 0:
                    z = through_join(joins[index], z, x).to(wide)
                z = z + _made(adapter, x).to(wide)
            streams.append((x.to(wide), z))
        return [
            norm[:, None, None] * (_normed(x + z) - _normed(x))
            for (x, z), norm in zip(
                (streams[end] for end in self.ends), self.norms, strict=True
            )
        ]

    def core_parameters(self) -> Iterator[nn.Parameter]:
        adapters: Any = self.adapters
        for adapter in adapters:
            yield adapter['up2']

    def no_decay_parameters(self) -> Iterator[nn.Parameter]:
        """Yield γ, which starts at one."""
        yield from self.norms

    def meaning(self) -> dict[str, Any]:
        return dict(adapters=len(self.adapters), rank=self.rank)


def _made(adapter: Any, h: Tensor) -> Tensor:
    """Return U gelu(D h + d) + u, shape ``(N, C, H, W)``."""
    inner = mix_channels(h, adapter['down1'], None)
    hidden = mix_channels(inner, adapter['down2'], adapter['down_bias'])
    inner = mix_channels(F.gelu(hidden), adapter['up1'], None)
    return mix_channels(inner, adapter['up2'], adapter['up_bias'])


def _normed(x: Tensor) -> Tensor:
    """Return LN(x), without scale and shift, of the channels of a map."""
    normed = F.layer_norm(x.movedim(1, -1), (x.shape[1],))
    return normed.movedim(-1, 1)
