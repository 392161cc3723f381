"""The space of a search: the ranks that each layer may have."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from mmflora.adapter_files.adapter import AdapterFile
from mmflora.adapter_files.reduce import lower_ranks_of

Architecture = tuple[int, ...]
"""A rank for each layer, in the space's order."""


class SearchedLayer(NamedTuple):
    """A layer or block of a supernet.

    Attributes:
        name: Its name in the model.
        method: That of its adapter.
        part: The frozen part that it is in.
        ranks: What it may have, ascending; 0 is no adapter.
        parameters: How many parameters each of them takes.
    """

    name: str
    method: str
    part: str
    ranks: tuple[int, ...]
    parameters: tuple[int, ...]


class Space:
    """The architectures of a supernet.

    In each frozen part at least one layer has an adapter.

    Args:
        layers: The layers, in the model's order.
    """

    def __init__(self, layers: Sequence[SearchedLayer]) -> None:
        self.layers = tuple(layers)
        self.costs = [
            dict(zip(one.ranks, one.parameters, strict=True)) for one in layers
        ]
        self.parts = [
            [i for i, one in enumerate(layers) if one.part == part]
            for part in dict.fromkeys(one.part for one in layers)
        ]

    def parameters(self, architecture: Architecture) -> int:
        """Return how many parameters its adapters have."""
        pairs = zip(self.costs, architecture, strict=True)
        return sum(cost[rank] for cost, rank in pairs)

    def ranks(self, architecture: Architecture) -> dict[str, int]:
        """Return its ranks by the names of the layers."""
        names = (one.name for one in self.layers)
        return dict(zip(names, architecture, strict=True))

    def empty_parts(self, architecture: Sequence[int]) -> list[list[int]]:
        """Return the layers of the parts in which none has an adapter."""
        return [
            part
            for part in self.parts
            if not any(architecture[i] for i in part)
        ]

    def cheapest_filled(self, part: Sequence[int]) -> tuple[int, int]:
        """Return the layer of a part's cheapest adapter, and its rank."""
        found = [
            (cost, i, rank)
            for i in part
            for rank, cost in self.costs[i].items()
            if rank
        ]
        _, layer, rank = min(found)
        return layer, rank

    def smallest(self) -> Architecture:
        """Return the architecture of the fewest parameters."""
        found = [one.ranks[0] for one in self.layers]
        for part in self.empty_parts(found):
            layer, rank = self.cheapest_filled(part)
            found[layer] = rank
        return tuple(found)

    def check_budget(self, budget: int) -> None:
        """Check that a budget of parameters has room for an architecture.

        Raises:
            ValueError: If it has not; the fewest are named.
        """
        least = self.parameters(self.smallest())
        if budget < least:
            raise ValueError(
                f'--budget: the smallest architecture takes {least:,} '
                f'parameters, got {budget:,}. Give a larger budget, or train '
                'a supernet whose ranks begin lower; 0 is no adapter.'
            )


def space_of(adapter: AdapterFile) -> Space:
    """Return the space that a trained supernet spans.

    Args:
        adapter: The supernet, with its trained settings.

    Raises:
        ValueError: If a layer's method has no nested ranks, or none that its
            training draws.
    """
    parts = sorted(adapter.config['backbones'], key=len)
    layers = []
    for name, one in lower_ranks_of(adapter, prefix=True).items():
        prefixes: Any = one
        blank = prefixes.trained._blank_of(prefixes.whole, prefixes.given)
        ranks = tuple(getattr(blank, 'sampled_ranks', ()))
        if not ranks:
            raise ValueError(
                f"'{adapter.path}': layer '{name}' has an adapter of type "
                f'{prefixes.trained.__name__} whose training draws no ranks, '
                'so that its prefixes are no adapters. Supernets are DyLoRA '
                'and MatryoshkaFLoRA(sampled=True), best with per_layer=True, '
                'Pfeiffer, Houlsby and AdaptFormer with `widths`, and VPT '
                'with `counts`.'
            )
        counts = [prefixes.parameters(r) if r else 0 for r in ranks]
        own = [p for p in parts if name.startswith(f'{p}.' if p else '')]
        layers.append(
            SearchedLayer(
                name, prefixes.trained.__name__, own[-1], ranks, tuple(counts)
            )
        )
    return Space(layers)


def described(space: Space) -> list[Mapping[str, Any]]:
    """Return a space in plain types."""
    return [
        {
            **one._asdict(),
            'ranks': [*one.ranks],
            'parameters': [*one.parameters],
        }
        for one in space.layers
    ]
