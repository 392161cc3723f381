"""LoRand: bottlenecks whose matrices are synthesized from small ones."""

from typing import Any

import torch
from torch import Tensor, nn

from mmflora.registry import ADAPTERS

from ..bottleneck import Bottleneck
from ..settings import check_count


@ADAPTERS.register_module()
class LoRand(Bottleneck):
    """Bottlenecks behind attention and MLP, of low-rank matrices: h + u(h).

    Yin et al., "1% VS 100%: Parameter-Efficient Low Rank Adapter for Dense
    Predictions" (CVPR 2023).  Both matrices of a bottleneck are sums over α
    branches,

        Dᵀ = Σ P_i K_i Q_i        Uᵀ = Σ P'_i K_i Q'_i

    with β × β kernels K_i that the two share.  The activation is the GELU.
    All of Q' starts at zero, so that the start is the frozen model.  It is
    written after public code that uses the method, not after the paper.

    Args:
        block: The block; a ConvNeXt has MLPs alone.
        branches: The paper's α.
        kernel: The paper's β.
        width: Width of the bottleneck, ``None`` for half of the block's.
        scale: Factor on the bottleneck's output.
        places: See :class:`Bottleneck`.

    Example:
        >>> adapter = dict(type='LoRand', branches=2, kernel=8)
    """

    paper = 'Yin et al., CVPR 2023, pages 20116-20126'
    places = r'(.*\.)?(attn|attention|self_attn|mlp|ffn)'

    def __init__(
        self,
        block: nn.Module,
        branches: int = 2,
        kernel: int = 8,
        width: int | None = None,
        scale: float = 1.0,
        places: str | None = None,
    ) -> None:
        # Before the parent, which makes the parameters.
        self._sizes = (
            check_count('LoRand', 'branches', branches),
            check_count('LoRand', 'kernel', kernel),
        )
        self._half = width is None
        super().__init__(
            block, 1 if width is None else width, 'gelu', scale, places
        )

    def forward(self, inputs: Tensor, output: Tensor) -> Tensor:
        """Return h + u(h) for the block's output h."""
        return self.behind(output)

    def make_parameters(self) -> None:
        """Make the factors of D and U, and the biases."""
        branches, size = self._sizes
        if self._half:
            self.width = max(1, self.channels // 2)
        self.kernel = self.new_parameter(branches, size, size)
        self.down_left = self.new_parameter(branches, self.channels, size)
        self.down_right = self.new_parameter(branches, size, self.width)
        self.up_left = self.new_parameter(branches, self.width, size)
        self.up_right = self.new_parameter(branches, size, self.channels)
        self.down_bias = self.new_parameter(self.width)
        self.up_bias = self.new_parameter(self.channels)

    def reset_parameters(self) -> None:
        """Start as zero: all of Q' and the biases are."""
        left = (self.down_left, self.up_left)
        for factors in (self.kernel, *left, self.down_right):
            for factor in factors:
                nn.init.kaiming_uniform_(factor, a=5**0.5)
        for parameter in (self.up_right, self.down_bias, self.up_bias):
            nn.init.zeros_(parameter)

    def matrices(self) -> tuple[Tensor, Tensor]:
        """Return D and U, shapes ``(width, C)`` and ``(C, width)``."""
        down = _sum(self.down_left, self.kernel, self.down_right)
        return down, _sum(self.up_left, self.kernel, self.up_right)

    def core_parameters(self) -> Any:
        yield self.up_right

    def meaning(self) -> dict[str, Any]:
        branches, size = self._sizes
        return dict(
            channels=self.channels,
            width=self.width,
            branches=branches,
            kernel=size,
            scale=self.scale,
        )


def _sum(left: Tensor, kernel: Tensor, right: Tensor) -> Tensor:
    """Return the transpose of Σ P_i K_i Q_i, of all branches at once.

    Args:
        left: P, shape ``(branches, m, size)``.
        kernel: K, shape ``(branches, size, size)``.
        right: Q, shape ``(branches, size, n)``.

    Returns:
        Shape ``(n, m)``.
    """
    product = torch.bmm(left, kernel)
    flat = product.transpose(1, 2).flatten(0, 1)  # (branches · size, m)
    return right.flatten(0, 1).T @ flat
