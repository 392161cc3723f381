"""Evolution of architectures within a budget of parameters."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mmflora.adapters.settings import check_count, check_probability

from .space import Architecture, Space


@dataclass(frozen=True)
class Evolution:
    """How architectures evolve.

    Attributes:
        population: How many each generation has.
        generations: How many there are, the random one at the start included.
        parents: The best so far, of which the next generation is made.
        mutation: Probability with which a layer of a mutant draws a new rank.
        seed: Of all draws.

    Raises:
        ValueError: If one is out of range.
    """

    population: int = 20
    generations: int = 10
    parents: int = 5
    mutation: float = 0.2
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ('population', 'generations', 'parents'):
            check_count('search', name, getattr(self, name))
        check_probability('search', 'mutation', self.mutation)
        if self.seed < 0:
            raise ValueError(f'search: `seed` is at least 0, got {self.seed}.')


# A draw that was there before is drawn again, so often for each place.
_TRIES = 10


def evolve(
    space: Space,
    budget: int,
    evolution: Evolution,
    evaluate: Callable[[Architecture, int], float],
) -> tuple[Architecture, dict[Architecture, float]]:
    """Search the best architecture within a budget.

    Zhang et al., "Neural Prompt Search" (NOAH, 2022, arXiv:2206.04673), with
    the authors' release: a random generation; then half of each is mutants of
    the best architectures so far, half crossovers of two of them, and random
    ones fill it up.  None is evaluated twice.

    What differs: here a mutant redraws each layer's rank with some
    probability, and a crossover takes each layer's from one of its parents
    (the release moves the depth down to which a kind of module acts, and
    crosses kinds as a whole).  What is above the budget loses a step of a
    random layer's ranks until it fits; the release draws anew, which a small
    budget may never satisfy.

    Each generation's draws depend on the seed, its number and the scores so
    far alone: with the same scores, the search is the same.

    Args:
        space: The architectures.
        budget: The most parameters.
        evolution: See there.
        evaluate: Returns the score of an architecture, the higher the
            better; it also gets the number of the generation.

    Returns:
        The best architecture, of equal ones the one of fewer parameters, and
        all scores.

    Raises:
        ValueError: If the budget is below the smallest architecture.
    """
    space.check_budget(budget)
    scores: dict[Architecture, float] = {}
    for number in range(evolution.generations):
        breeder = _Breeder(space, budget, evolution, number)
        for one in breeder.generation(scores):
            scores[one] = evaluate(one, number)
    return ranked(space, scores)[0], scores


def ranked(
    space: Space, scores: Mapping[Architecture, float]
) -> list[Architecture]:
    """Return architectures, the best first."""
    return sorted(scores, key=lambda x: (-scores[x], space.parameters(x)))


class _Breeder:
    """Draws the architectures of one generation."""

    def __init__(
        self, space: Space, budget: int, evolution: Evolution, number: int
    ) -> None:
        self.space, self.budget, self.evolution = space, budget, evolution
        self.random = np.random.default_rng([evolution.seed, number])

    def generation(
        self, scores: Mapping[Architecture, float]
    ) -> list[Architecture]:
        """Return the next ones; fewer where the space has no more."""
        size, known = self.evolution.population, set(scores)
        parents = ranked(self.space, scores)[: self.evolution.parents]
        found: list[Architecture] = []
        wishes = [(self.drawn, size)]
        if parents:
            mutants = (lambda: self.mutant(parents), size // 2)
            crossed = (lambda: self.crossover(parents), size)
            wishes = [mutants, crossed, *wishes]
        for draw, most in wishes:
            for _ in range(_TRIES * size):
                if len(found) >= most:
                    break
                one = self.fitted(draw())
                if one not in known:
                    known.add(one)
                    found.append(one)
        return found

    def drawn(self) -> list[int]:
        """Draw a rank for each layer."""
        return [self._rank(i) for i in range(len(self.space.layers))]

    def mutant(self, parents: Sequence[Architecture]) -> list[int]:
        """Draw some ranks of a parent again."""
        (parent,) = self._pick(parents, 1)
        again = self.random.random(len(parent)) < self.evolution.mutation
        return [
            self._rank(i) if redraw else rank
            for i, (rank, redraw) in enumerate(zip(parent, again, strict=True))
        ]

    def crossover(self, parents: Sequence[Architecture]) -> list[int]:
        """Take each layer's rank from one of two parents."""
        first, second = self._pick(parents, 2)
        choice = self.random.random(len(first)) < 0.5
        return [
            a if one else b
            for a, b, one in zip(first, second, choice, strict=True)
        ]

    def fitted(self, ranks: list[int]) -> Architecture:
        """Fill empty parts, and lower random layers until the budget holds."""
        space, ranks = self.space, list(ranks)
        for part in space.empty_parts(ranks):
            layer, rank = space.cheapest_filled(part)
            ranks[layer] = rank
        over = space.parameters(tuple(ranks)) - self.budget
        while over > 0:
            lower = self._lower(ranks)
            if not lower:
                return space.smallest()
            layer, rank = lower[int(self.random.integers(len(lower)))]
            over -= space.costs[layer][ranks[layer]] - space.costs[layer][rank]
            ranks[layer] = rank
        return tuple(ranks)

    def _lower(self, ranks: Sequence[int]) -> list[tuple[int, int]]:
        """Return each layer that may fall, and the next of its ranks."""
        filled = Counter(
            one.part
            for one, rank in zip(self.space.layers, ranks, strict=True)
            if rank
        )
        found = []
        for i, (one, rank) in enumerate(
            zip(self.space.layers, ranks, strict=True)
        ):
            place = one.ranks.index(rank)
            # The last adapter of its part stays.
            if place and (one.ranks[place - 1] or filled[one.part] > 1):
                found.append((i, one.ranks[place - 1]))
        return found

    def _rank(self, layer: int) -> int:
        ranks = self.space.layers[layer].ranks
        return ranks[int(self.random.integers(len(ranks)))]

    def _pick(
        self, parents: Sequence[Architecture], count: int
    ) -> list[Architecture]:
        several = count <= len(parents)
        places = self.random.choice(len(parents), count, replace=not several)
        return [parents[int(place)] for place in places]
