"""Rein: tokens that refine the features between the blocks."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmflora.registry import ADAPTERS

from ..blocks import BlockAdapter, last_weight
from ..settings import check_count, is_whole
from ..shared import Sharing
from ..tokens import width_of_tokens

MOST_PREFIX_TOKENS = 4096


@ADAPTERS.register_module()
class Rein(Sharing, BlockAdapter):
    """Tokens that refine the features of each block by attention.

    Wei et al., "Stronger, Fewer, & Superior: Harnessing Vision Foundation
    Models for Domain Generalized Semantic Segmentation" (2024), section 3.
    The features f of block i, of width c, become f + Δf, with m tokens T of
    low rank for the block and matrices W, biases b for all blocks:

        T = A B,   S = softmax(f Tᵀ / √c)
        Δf̄ = S[:, 2:m] (T[2:m] W_T + b_T)
        Δf = γ · ((Δf̄ + f) W_f + b_f)

    What a feature finds in no token goes to the first one, which adds
    nothing.  The factor γ, of the authors' code, trains and starts at 0.001:
    the start is nearly the frozen model.  A and B start uniform within
    ±√(6 / (3 · patch² + √(c r))), as there; W and b as those of any linear
    layer.  The paper also makes queries of Mask2Former of the tokens; heads
    are not changed here, so this is left out.

    Attention depends on the input, so that it cannot be merged.

    Args:
        block: The block.
        tokens: m, at least 2.
        rank: r of the tokens.
        patch_size: Side of a patch of the model; it bounds the start.
        prefix_tokens: How many class and register tokens stand first, and are
            left as they are; the paper leaves out the class token.  4 + 1 for
            DINOv3, 0 for a model without.
        places: Pattern of the names of other blocks.

    Example:
        >>> adapter = dict(type='Rein', tokens=100, rank=16)
    """

    paper = 'Wei et al., 2024, arXiv:2312.04265'
    places = r'(.*\.)?(blocks|layers)\.\d+'
    why_not_mergeable = 'its attention depends on the input'

    def __init__(
        self,
        block: nn.Module,
        tokens: int = 100,
        rank: int = 16,
        patch_size: int = 16,
        prefix_tokens: int = 1,
        places: str | None = None,
    ) -> None:
        super().__init__()
        self.tokens = check_count('Rein', 'tokens', tokens)
        self.rank = check_count('Rein', 'rank', rank)
        patch_size = check_count('Rein', 'patch_size', patch_size)
        if self.tokens < 2:
            raise ValueError(
                f'Rein: tokens={tokens}, but the first token adds nothing. '
                'Take 2 at least.'
            )
        if not is_whole(prefix_tokens, 0, MOST_PREFIX_TOKENS):
            raise ValueError(
                'Rein: `prefix_tokens` is an integer of at least 0 and at '
                f'most {MOST_PREFIX_TOKENS}, got '
                f'prefix_tokens={prefix_tokens!r}.'
            )
        self.prefix_tokens = int(prefix_tokens)
        self.channels = width_of_tokens(block)
        weight = last_weight(block).get_parameter('weight')
        self.left = self.parameter_like(weight, tokens, rank)
        self.right = self.parameter_like(weight, rank, self.channels)
        inner = (self.channels * rank) ** 0.5
        bound = (6 / (3 * patch_size**2 + inner)) ** 0.5
        for factor in (self.left, self.right):
            nn.init.uniform_(factor, -bound, bound)

    @classmethod
    def shared_by(cls, adapters: Sequence[Any]) -> nn.Module:
        """Return W_T, b_T, W_f, b_f and γ for each width."""
        shared = nn.ModuleDict()
        for one in adapters:
            width = one.channels
            if str(width) not in shared:
                shared[str(width)] = own = nn.ParameterDict()
                for part in ('token', 'feature'):
                    weight = one.parameter_like(one.left, width, width)
                    bias = one.parameter_like(one.left, width)
                    nn.init.uniform_(weight, -(width**-0.5), width**-0.5)
                    nn.init.uniform_(bias, -(width**-0.5), width**-0.5)
                    own[f'{part}_weight'], own[f'{part}_bias'] = weight, bias
                own['scale'] = one.parameter_like(one.left, 1)
                nn.init.constant_(own['scale'], 0.001)
        return shared

    def forward(self, inputs: Tensor, output: Tensor) -> Tensor:
        """Return the block's output with its features refined.

        Args:
            inputs: The block's tokens.
            output: Shape ``(N, L, C)`` with class and register tokens first,
                or ``(N, H, W, C)``.

        Raises:
            ValueError: If the channels are not last.
        """
        if output.shape[-1] != self.channels:
            raise ValueError(
                f'Rein: the block works on {self.channels} channels, but its '
                f'output of shape {tuple(output.shape)} has them not last. '
                'Leave the block out with `exclude`.'
            )
        count = self.prefix_tokens if output.dim() == 3 else 0
        features = output[:, count:]
        refined = features + self.refinement(features)
        return torch.cat([output[:, :count], refined], dim=1)

    def refinement(self, features: Tensor) -> Tensor:
        """Return Δf of features f, both of shape ``(..., C)``."""
        kind = features.dtype
        own = {
            name: value.to(kind)
            for name, value in self.shared[str(self.channels)].items()
        }
        tokens = (self.left @ self.right).to(kind)
        scores = features @ tokens.T * self.channels**-0.5
        share = scores.softmax(dim=-1)[..., 1:].to(kind)
        values = F.linear(tokens[1:], own['token_weight'], own['token_bias'])
        mixed = share @ values.to(kind) + features
        moved = F.linear(mixed, own['feature_weight'], own['feature_bias'])
        return own['scale'] * moved

    def meaning(self) -> dict[str, Any]:
        return dict(
            channels=self.channels,
            tokens=self.tokens,
            rank=self.rank,
            prefix_tokens=self.prefix_tokens,
        )
