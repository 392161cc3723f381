"""Queryable LoRA: shared update atoms, mixed by a query of the input."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor, nn

from mmflora.registry import ADAPTERS

from ..base import CannotAdapt
from ..bases import routed
from ..layer_weights import frozen_weight
from ..layers import (
    AdaptedConv,
    AdaptedLayer,
    AdaptedLinear,
    OperatorLayer,
    adapted_class,
)
from ..settings import check_count, check_factor
from ..shared import SharingAdapter


class Atoms(nn.Module):
    """The memory of all layers: atoms of the update, and their keys.

    Args:
        like: An adapter of one of the layers.
    """

    def __init__(self, like: 'QueryableLoRA') -> None:
        super().__init__()
        count, rank = like.atoms, like.rank
        self.values = like.parameter_like(like.down, count, rank, rank)
        self.keys = like.parameter_like(like.down, count, like.width)
        nn.init.normal_(self.values, std=rank**-0.5)
        nn.init.normal_(self.keys)


@ADAPTERS.register_module()
class QueryableLoRA(SharingAdapter):
    """y = W x + s B M(z) z, z = A x: atoms for all layers make up M.

    Vaidya et al., "Queryable LoRA: Instruction-Regularized Routing Over
    Shared Low-Rank Update Atoms" (2026), as its abstract has it: the low-rank
    state z forms a query, attention over the keys of a memory that all layers
    share gives weights π, and the routed operator M = Σ_k π_k U_k of the
    memory's atoms U_k, r × r, acts within LoRA's bottleneck.

    What was chosen here: each position of the input, a token or a pixel, has
    a query of its own, Q z, and π = softmax(keys · Q z / √width + prior).
    The prior is a learnt vector of the layer.  It takes the place of the
    running summary of earlier blocks, which is a state between layers that
    activation checkpointing would find changed, and of the prior from
    instructions, which images do not have.  All atoms count, not the best
    few.  A kernel has LoRA's spatial form, A a kernel and B one of size 1.

    M depends on the input, so that nothing can be merged.  Grouped and
    transposed convolutions, embeddings and layers with a forward pass of
    their own are left out.

    Args:
        weight: The frozen weight.
        rank: The rank r.
        atoms: How many atoms the layers share.
        width: The length of queries and keys.
        alpha: s = alpha / rank.

    Raises:
        TypeError: If ``alpha`` is no number.
        ValueError: If a setting is out of its range.

    Example:
        >>> adapter = dict(type='QueryableLoRA', rank=8, atoms=8)
    """

    paper = 'Vaidya et al., 2026, arXiv:2605.08423'
    additive = False
    mergeable = False
    why_not_mergeable = 'its update depends on the input'

    def __init__(
        self,
        weight: Tensor,
        rank: int = 8,
        atoms: int = 8,
        width: int = 8,
        alpha: float = 16.0,
    ) -> None:
        super().__init__(weight)
        kind = type(self).__name__
        self.rank = check_count(kind, 'rank', rank)
        self.atoms = check_count(kind, 'atoms', atoms)
        self.width = check_count(kind, 'width', width)
        self.scale = check_factor(kind, 'alpha', alpha) / rank
        out, *inputs = weight.shape
        self.down = self.parameter_like(weight, rank, *inputs)
        self.query = self.parameter_like(weight, width, rank)
        self.prior = self.parameter_like(weight, atoms)
        self.up = self.parameter_like(weight, out, rank)
        for matrix in (self.down, self.query):
            nn.init.kaiming_uniform_(matrix, a=math.sqrt(5))
        nn.init.zeros_(self.prior)
        nn.init.zeros_(self.up)

    @classmethod
    def for_layer(cls, layer: nn.Module, **options: Any) -> 'QueryableLoRA':
        kind = adapted_class(layer) or nn.Module
        served = issubclass(kind, (AdaptedLinear, AdaptedConv))
        if not served or getattr(layer, 'groups', 1) > 1:
            raise CannotAdapt(
                'its query needs the input of a plain linear layer or a '
                'convolution of one group'
            )
        return cls(frozen_weight(layer), **options)

    @classmethod
    def shared_by(cls, adapters: Sequence[Any]) -> nn.Module:
        return Atoms(adapters[0])

    def layer_class(self, layer: nn.Module) -> type[AdaptedLayer] | None:
        """Return the usual class; none where a parent reads the weight."""
        return adapted_class(layer)

    def forward_layer(
        self, layer: nn.Module, inputs: Tensor, *arguments: Any
    ) -> Tensor | None:
        """Return W x + s B M(z) z.

        Raises:
            TypeError: If the layer is none that :meth:`for_layer` takes.
        """
        if not isinstance(layer, OperatorLayer):
            raise TypeError(
                f'QueryableLoRA needs the input of {type(layer).__name__}.'
            )
        output = layer.compute(inputs, layer.weight, layer.bias)
        state = layer.compute(inputs, self.down.to(inputs.dtype), None)
        dim = layer.channel_dim
        memory = self.shared
        update = routed(
            state.movedim(dim, -1),
            self.query,
            (memory.keys, memory.values),
            self.prior,
        )
        update = update @ (self.scale * self.up.T).to(update.dtype)
        return output + update.to(output.dtype).movedim(-1, dim)

    def delta_weight(self) -> Tensor:
        """Refuse: there is no update without an input.

        Raises:
            ValueError: Always.
        """
        raise ValueError(
            f'The update of {type(self).__name__} depends on the input, so '
            'that it is no change of the weight. Keep the adapter, and '
            'compare such models by their outputs.'
        )

    def core_parameters(self) -> Iterator[nn.Parameter]:
        yield self.up

    def no_decay_parameters(self) -> Iterator[nn.Parameter]:
        """Yield what decides how atoms are mixed: at zero, all count alike."""
        yield from (self.query, self.prior, self.shared.keys)

    def meaning(self) -> dict[str, Any]:
        names = ('rank', 'atoms', 'width', 'scale')
        return {name: getattr(self, name) for name in names}
