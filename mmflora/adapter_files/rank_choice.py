"""Ranks for all layers, from a budget of parameters or a part to keep."""

from collections.abc import Mapping

from mmflora.adapters.ranked import Ranked


def ranks_of_energy(
    layers: Mapping[str, Ranked], energy: float
) -> dict[str, int]:
    """Return the lowest rank that keeps a part of each layer's ‖ΔW‖².

    Raises:
        ValueError: If the part is not in (0, 1].
    """
    if not 0 < energy <= 1:
        raise ValueError(
            f'The energy is the part of ‖ΔW‖² to keep, above 0 and at most 1, '
            f'such as 0.9; got {energy}.'
        )
    found = {}
    for name, one in layers.items():
        least = energy * (one.total or 0.0) * (1 - 1e-12)
        found[name] = next(
            rank
            for rank in range(1, one.largest + 1)
            if rank == one.largest or one.kept(rank) >= least
        )
    return found


def ranks_of_budget(
    layers: Mapping[str, Ranked], budget: int
) -> dict[str, int]:
    """Spread parameters over layers, where they keep most of Σ ‖ΔW‖².

    Each layer has at least rank 1.  Then the step that keeps most for each
    parameter comes first, until no step fits.  Steps are those of the upper
    hull of what a layer's ranks keep, so for products of two matrices the
    result keeps the most that any choice within the budget does, but for the
    last parameters that no step fits.

    Raises:
        ValueError: If even rank 1 takes more.
    """
    ranks = dict.fromkeys(layers, 1)
    spent = sum(one.parameters(1) for one in layers.values())
    if spent > budget:
        raise ValueError(
            f'A budget of {budget:,} parameters is too small: rank 1 takes '
            f'{spent:,} in {len(layers)} layers. Raise it.'
        )
    steps = sorted(
        (step for name, one in layers.items() for step in _steps(name, one)),
        key=lambda step: -step[0],
    )
    full = set()
    for _, name, rank, cost in steps:
        if name in full:
            continue
        if spent + cost > budget:
            full.add(name)
        else:
            spent += cost
            ranks[name] = rank
    return ranks


def _steps(name: str, one: Ranked) -> list[tuple[float, str, int, int]]:
    """Return what each step of a layer's hull keeps for each parameter.

    Returns:
        Gains, with the layer, the rank after the step and its parameters;
        the gains descend.
    """
    counts = [one.parameters(rank) for rank in range(1, one.largest + 1)]
    kept = [one.kept(rank) for rank in range(1, one.largest + 1)]
    found, at, noise = [], 0, 1e-12 * (one.total or 0.0)
    while at < len(counts) - 1:
        best, gain = at, 0.0
        for later in range(at + 1, len(counts)):
            cost = counts[later] - counts[at]
            more = kept[later] - kept[at]
            if more > noise and cost > 0 and more / cost > gain:
                best, gain = later, more / cost
        if best == at:
            break
        found.append((gain, name, best + 1, counts[best] - counts[at]))
        at = best
    return found
