"""Compacter: bottlenecks of Kronecker products."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from mmflora.registry import ADAPTERS

from ..base import CannotAdapt
from ..bottleneck import Bottleneck
from ..kronecker import kronecker_sum
from ..settings import check_count
from ..shared import Sharing
from .houlsby import Houlsby


class Rules(nn.Module):
    """The matrices A_i that all blocks share, as Gaussians.

    Args:
        like: The adapter of one of the blocks.
    """

    def __init__(self, like: 'Compacter') -> None:
        super().__init__()
        n = like.phm_dim
        self.rules = like.parameter_like(like.down_left, n, n, n)
        nn.init.normal_(self.rules, std=n**-0.5)


@ADAPTERS.register_module()
class Compacter(Sharing, Bottleneck):
    """Bottlenecks h + u(h) whose matrices are W = Σ_i A_i ⊗ s_i t_i.

    Karimi Mahabadi et al., "Compacter: Efficient Low-Rank Hypercomplex Adapter
    Layers" (NeurIPS 2021), section 3: both matrices of each bottleneck are
    sums of n Kronecker products.  The A_i, n × n, are those of all
    bottlenecks; s_i and t_i, of a small rank, are each matrix' own.  They
    stand where Houlsby's do; with ``places=r'(.*[.])?(mlp|ffn)'`` it is the
    paper's Compacter++.

    The t_i of the second matrix start at zero, so that the block starts
    exactly unchanged.  The release draws them at random, and the A_i so small
    that it starts nearly so.

    Args:
        block: The block, of a number of channels that n divides.
        width: Width of the bottleneck, a multiple of n.
        phm_dim: n.
        rank: The rank of s_i t_i.
        **options: As for :class:`~mmflora.adapters.Bottleneck`.

    Raises:
        ValueError: If a setting is out of its range.

    Example:
        >>> adapter = dict(type='Compacter', width=64, phm_dim=4)
    """

    paper = 'Karimi Mahabadi et al., 2021, arXiv:2106.04647'
    places = Houlsby.places

    def __init__(
        self,
        block: nn.Module,
        width: int = 64,
        phm_dim: int = 4,
        rank: int = 1,
        activation: str = 'gelu',
        scale: float = 1.0,
        places: str | None = None,
    ) -> None:
        self.phm_dim = check_count('Compacter', 'phm_dim', phm_dim)
        self.rank = check_count('Compacter', 'rank', rank)
        if check_count('Compacter', 'width', width) % phm_dim:
            raise ValueError(
                f'Compacter: `width` is a multiple of phm_dim={phm_dim}, got '
                f'width={width}.'
            )
        super().__init__(block, width, activation, scale, places)

    @classmethod
    def shared_by(cls, adapters: Sequence[Any]) -> nn.Module:
        return Rules(adapters[0])

    def forward(self, inputs: Tensor, output: Tensor) -> Tensor:
        """Return h + u(h) for the block's output h."""
        return self.behind(output)

    def make_parameters(self) -> None:
        """Make s, t and the biases.

        Raises:
            CannotAdapt: If n does not divide the channels.
        """
        n = self.phm_dim
        if self.channels % n:
            raise CannotAdapt(
                f'its {self.channels} channels are no multiple of phm_dim={n}'
            )
        inner, outer = self.width // n, self.channels // n
        self.down_left = self.new_parameter(n, inner, self.rank)
        self.down_right = self.new_parameter(n, self.rank, outer)
        self.up_left = self.new_parameter(n, outer, self.rank)
        self.up_right = self.new_parameter(n, self.rank, inner)
        self.down_bias = self.new_parameter(self.width)
        self.up_bias = self.new_parameter(self.channels)

    def reset_parameters(self) -> None:
        """Start as zero: t of the second matrix and the biases are."""
        nn.init.normal_(self.down_left, std=self.rank**-0.5)
        nn.init.normal_(self.down_right, std=self.channels**-0.5)
        nn.init.normal_(self.up_left, std=self.rank**-0.5)
        for parameter in (self.up_right, self.down_bias, self.up_bias):
            nn.init.zeros_(parameter)

    def matrices(self) -> tuple[Tensor, Tensor]:
        """Return both sums of Kronecker products."""
        rules = self.shared.rules
        return (
            kronecker_sum(rules, self.down_left @ self.down_right),
            kronecker_sum(rules, self.up_left @ self.up_right),
        )

    def core_parameters(self) -> Any:
        yield self.up_right

    def meaning(self) -> dict[str, Any]:
        own = dict(phm_dim=self.phm_dim, rank=self.rank)
        return super().meaning() | own
