"""VPT: prompt tokens in the blocks of a plain transformer."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from mmflora.registry import ADAPTERS

from ..blocks import BlockAdapter, last_weight
from ..lower_ranks import LowerRanks
from ..sampled import SampledRanks, nested_ranks
from ..settings import check_choice, check_count, check_probability
from ..stored import Settings, Tensors
from ..tokens import add_tokens, split_tokens, width_of_tokens

_PROMPTS = '_mmflora_prompts'


@ADAPTERS.register_module()
class VPT(SampledRanks, LowerRanks, BlockAdapter):
    """Trained prompt tokens beside the tokens of the image.

    Jia et al., "Visual Prompt Tuning" (2022), section 3.2.  With patches E
    and the class token x, block i of N computes in the form

    - ``'deep'``: [x_i, _, E_i] = L_i([x_{i-1}, P_{i-1}, E_{i-1}]), with
      prompts P of its own in each block: N · p · C parameters;
    - ``'shallow'``: [x_i, Z_i, E_i] = L_i([x_{i-1}, Z_{i-1}, E_{i-1}]) with
      Z_0 = P: the first block adds p prompts, and what they become passes
      from block to block: p · C parameters.

    Prompts enter behind the embeddings and stand in no output.  They start
    as the paper's code draws them, uniform within ±√(6 / (3 · patch² + C)).
    So the start is not the frozen model: attention is shared with p more
    tokens.  They cannot be merged: they are inputs of the attention, which no
    weight can hold.

    Args:
        block: The block.
        tokens: p, in each block or in the first.
        form: ``'deep'`` or ``'shallow'``.
        patch_size: Side of a patch of the model; it bounds the start.
        dropout: Probability with which, in training, entries of the prompts
            are dropped.
        places: Pattern of the names of other blocks.
        counts: Numbers of prompts of which each iteration of the training
            draws one, for each block of the deep form: the first so many
            count, of 0 none.  By default all do.

    Raises:
        ValueError: If a setting is out of range, or ``counts`` lack
            ``tokens`` or stand with the shallow form.

    Example:
        >>> adapter = dict(type='VPT', tokens=50, form='deep')
        >>> adapter = dict(type='VPT', tokens=50, counts=[0, 10, 50])
    """

    paper = 'Jia et al., 2022, arXiv:2203.12119'
    places = r'(.*\.)?(blocks|layers)\.\d+'
    why_not_mergeable = (
        'prompts are inputs of the attention, which no weight can hold'
    )
    rank_setting, drawn_setting = 'tokens', 'counts'
    per_layer = True

    def __init__(
        self,
        block: nn.Module,
        tokens: int = 50,
        form: str = 'deep',
        patch_size: int = 16,
        dropout: float = 0.0,
        places: str | None = None,
        counts: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        self.place = 'VPT'
        self.tokens = check_count('VPT', 'tokens', tokens)
        self.form = check_choice('VPT', 'form', form, ('deep', 'shallow'))
        patch_size = check_count('VPT', 'patch_size', patch_size)
        self.dropout = check_probability('VPT', 'dropout', dropout)
        if counts is not None:
            names = ('tokens', 'counts')
            self.sampled_ranks = nested_ranks('VPT', tokens, counts, names, 0)
            check_choice('VPT', 'form', form, ('deep',))
        self.channels = width_of_tokens(block, any_place=True)
        weight = last_weight(block).get_parameter('weight')
        self.prompts: nn.Parameter | None = self.parameter_like(
            weight, tokens, self.channels
        )
        bound = (6 / (3 * patch_size**2 + self.channels)) ** 0.5
        nn.init.uniform_(self.prompts, -bound, bound)

    @classmethod
    def build_all(
        cls, layers: Mapping[str, nn.Module], **options: Any
    ) -> dict[str, Any]:
        """Build the adapters; of the shallow form the first has prompts.

        Raises:
            ValueError: If blocks between those of the shallow form are left
                out.
        """
        built = super().build_all(layers, **options)
        last: dict[str, int] = {}
        for name, one in built.items():
            if not isinstance(one, VPT):
                continue
            one.place = f"VPT in block '{name}'"
            if one.form == 'shallow':
                stack = name.rstrip('0123456789')
                index = int(name[len(stack) :] or 0)
                if last.setdefault(stack, index) not in (index, index - 1):
                    raise ValueError(
                        f"VPT: block '{name}' is adapted and "
                        f"'{stack}{index - 1}' is not, but shallow prompts "
                        'pass from block to block. Adapt all blocks from the '
                        "first one on, or set form='deep'."
                    )
                if last[stack] != index:
                    one.prompts = None
                last[stack] = index
        return built

    def enter(
        self, arguments: tuple[Any, ...], named: Mapping[str, Any]
    ) -> tuple[tuple[Any, ...], Mapping[str, Any]]:
        """Return the block's arguments, with the prompts behind its tokens."""
        if self.prompts is None:
            tokens = arguments[0] if arguments else next(iter(named.values()))
            prompts = getattr(tokens, _PROMPTS, None)
            if prompts is None:
                raise ValueError(
                    f'{self.place}: its tokens come without the prompts of '
                    'the block before. Something stands between the blocks, '
                    'or activation checkpointing is re-entrant (set '
                    "use_reentrant=False). form='deep' works with both."
                )
        else:
            prompts = self.prompts[: self.prefix]
            prompts = F.dropout(prompts, self.dropout, self.training)
        return add_tokens(self.place, arguments, named, prompts)

    def forward(self, inputs: Tensor, output: Tensor) -> Tensor:
        """Return the block's output without the prompts."""
        count = self.tokens if self.prefix is None else self.prefix
        kept, prompts = split_tokens(output, count)
        if self.form == 'shallow':
            setattr(kept, _PROMPTS, prompts)
        return kept

    def no_decay_parameters(self) -> Iterator[nn.Parameter]:
        """Yield the prompts: one of zeros takes part in attention, too."""
        yield from self.parameters()

    @classmethod
    def stored_shape(
        cls, tensors: Tensors, settings: Settings
    ) -> tuple[int, ...] | None:
        """Return the shape of a layer of the block's width."""
        if 'prompts' not in tensors:
            return None
        channels = tensors['prompts'].shape[1]
        return channels, channels

    @classmethod
    def blank(cls, shape: Sequence[int], settings: Settings) -> Any:
        return cls(
            nn.MultiheadAttention(shape[0], 1, device='meta'), **settings
        )

    def meaning(self) -> dict[str, Any]:
        return dict(channels=self.channels, tokens=self.tokens, form=self.form)
