"""The forecast as tables, and as JSON."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from mmflora.count.table import markdown

from .batch import BatchShape
from .cards import (
    CONTEXT,
    FRAGMENTATION,
    GIB,
    WORKSPACES,
    Card,
    needed,
    room,
)
from .estimate import Estimate
from .step import BACKWARD, GRADIENTS, INPUTS, LOSSES, STATE, UPDATE

Pairs = Mapping[str, Sequence[Estimate]]
_NAMED = {INPUTS, LOSSES, BACKWARD, GRADIENTS, STATE, UPDATE}
# Numbered children of which there are more are one component.
_FEW = 6
_LARGEST_TERMS = 6

LEGEND = f"""\
GB are of 2^30 bytes, as in the names of GPUs. *weights*: parameters and
buffers. *kept*: what lives between forward and backward pass, the batch
included. *peak*: the most that tensors occupy at once, weights included.
*needs*: the peak, with allowances that are assumed, not computed:
{CONTEXT / GIB:.1f} GB for the CUDA context and the driver,
{WORKSPACES / GIB:.1f} GB for workspaces of cuDNN and cuBLAS, and
{FRAGMENTATION:.0%} of what is not weights for gaps between blocks.
"""


def gigabytes(size: float) -> str:
    """Return bytes as GB of 2^30, with a sensible number of digits."""
    value = size / GIB
    return f'{value:.3f}' if abs(value) < 0.1 else f'{value:.2f}'


def component(owner: str, crowded: frozenset[str] = frozenset()) -> str:
    """Return the component that a module belongs to, by its name.

    Args:
        owner: The module's name, or what a storage is for.
        crowded: Names of modules whose children are one component.

    Example:
        >>> component('backbone.stages.2.blocks.7.mlp.fc1')
        'backbone.stages.2'
    """
    if owner in _NAMED:
        return owner
    parts = owner.split('.')
    if parts[0] == 'backbone' and len(parts) > 1:
        parent = '.'.join(parts[:2])
        numbered = len(parts) > 2 and parts[2].isdigit()
        if numbered and parent not in crowded:
            return '.'.join(parts[:3])
        return parent
    return '.'.join(parts[: 2 if parts[0] == 'roi_head' else 1])


def by_component(sizes: Mapping[str, int]) -> dict[str, int]:
    """Sum bytes by component, the largest first."""
    children: dict[str, set[str]] = {}
    for owner in sizes:
        match = re.match(r'(backbone\.\w+)\.(\d+)(?:\.|$)', owner)
        if match:
            children.setdefault(match[1], set()).add(match[2])
    crowded = frozenset(
        parent for parent, numbers in children.items() if len(numbers) > _FEW
    )
    sums: dict[str, int] = {}
    for owner, size in sizes.items():
        name = component(owner, crowded)
        if name in crowded:
            name = f'{name}.*'
        sums[name] = sums.get(name, 0) + size
    return dict(sorted(sums.items(), key=lambda item: -item[1]))


def about(
    name: str, shape: BatchShape, estimate: Estimate, sharding: str = ''
) -> str:
    """Say in words what is predicted, and what is assumed of the data.

    Args:
        name: The config's name.
        shape: What a batch is like.
        estimate: The step.
        sharding: What shares it out among GPUs, if anything does.
    """
    lines = [
        f'{name}: a training step of {shape.images} images of '
        f'{shape.height}x{shape.width} ({shape.source}) on one GPU.'
    ]
    if estimate.positives:
        lines.append(
            f'Assumed: {shape.objects} objects in each image, and the most '
            f'positives that a second stage takes, {estimate.positives}.'
        )
    if sharding:
        lines.append(
            f'What {sharding} shares out among GPUs is counted whole, as if '
            'there were one.'
        )
    if estimate.assumed:
        what = ', '.join(sorted(estimate.assumed))
        lines.append(
            'Some values that depend on the network were read, and taken for '
            f'zero (by {what}).'
        )
    return '\n'.join(lines)


def terms_table(estimate: Estimate) -> str:
    """Return the table of what a step consists of."""
    step = estimate.step
    rows = [
        [f'weights: {part}', dtype, gigabytes(size)]
        for (part, dtype), size in estimate.weights.items()
    ]
    rows.append(['buffers', '', gigabytes(estimate.buffers)])
    rows.append([GRADIENTS, '', gigabytes(step.gradients)])
    rows.append([STATE, '', gigabytes(step.state)])
    rows += _largest('kept', by_component(step.activations))
    rows += _largest(f'peak, {step.peak_phase}', by_component(step.at_peak))
    rows.append(['peak', 'with weights', gigabytes(estimate.peak)])
    return markdown(['what', 'of', 'GB'], rows)


def _largest(what: str, sizes: Mapping[str, int]) -> list[list[str]]:
    items = list(sizes.items())
    rows = [[what, 'all', gigabytes(sum(sizes.values()))]]
    for name, size in items[:_LARGEST_TERMS]:
        rows.append([what, name, gigabytes(size)])
    rest = sum(size for _, size in items[_LARGEST_TERMS:])
    if rest:
        rows.append([what, 'the rest', gigabytes(rest)])
    return rows


def options_table(pairs: Pairs, cards: Sequence[Card], fewest: int = 1) -> str:
    """Return the table of what each option needs, and whether it fits.

    Args:
        pairs: By the option's name its estimate, and that of a larger batch.
        cards: The GPUs to say it for.
        fewest: Images with which the model trains at all.
    """
    header = ['option', 'weights', 'gradients', STATE, 'kept', 'peak', 'needs']
    for card in cards:
        header += [f'{card.name}: spare', 'images']
    rows = []
    for name, (estimate, larger) in pairs.items():
        step = estimate.step
        sizes = (
            estimate.fixed,
            step.gradients,
            step.state,
            sum(step.activations.values()),
            estimate.peak,
            needed(estimate),
        )
        row = [name, *map(gigabytes, sizes)]
        for card in cards:
            fit = room(card, estimate, larger, fewest)
            row += [f'{fit.margin / GIB:+.1f}', str(fit.largest_batch)]
        rows.append(row)
    return markdown(header, rows)


def advice(pairs: Pairs, cards: Sequence[Card], fewest: int = 1) -> list[str]:
    """Say for each card whether the config fits, and what would make it."""
    (own, (estimate, larger)), *others = pairs.items()
    lines = []
    for card in cards:
        fit = room(card, estimate, larger, fewest)
        if fit.margin >= 0:
            lines.append(
                f'{card.name}: fits, {gigabytes(fit.margin)} GB spare; up to '
                f'{fit.largest_batch} images.'
            )
            continue
        ways = [
            f'{name} ({gigabytes(needed(other))} GB)'
            for name, (other, larger_other) in others
            if room(card, other, larger_other).margin >= 0
        ]
        if fit.largest_batch:
            ways.append(f'--batch {fit.largest_batch}')
        lines.append(
            f'{card.name}: does not fit, {gigabytes(-fit.margin)} GB missing. '
            + (
                f'It fits with {" or ".join(ways)}.'
                if ways
                else _least(others, own, estimate)
            )
        )
    return lines


def _least(others: Any, own: str, estimate: Estimate) -> str:
    """Say that nothing helps, and what comes nearest."""
    sizes = {own: needed(estimate)}
    sizes.update({name: needed(pair[0]) for name, pair in others})
    name = min(sizes, key=lambda key: sizes[key])
    return (
        f'Nor does any option; the least is {gigabytes(sizes[name])} GB '
        f'({name}).'
    )


def as_json(
    name: str,
    shape: BatchShape,
    pairs: Pairs,
    cards: Sequence[Card],
    fewest: int = 1,
) -> dict[str, Any]:
    """Return all figures, in bytes, for a JSON file."""
    found = {}
    for option, (estimate, larger) in pairs.items():
        step = estimate.step
        found[option] = dict(
            weights={
                f'{part}, {dtype}': size
                for (part, dtype), size in estimate.weights.items()
            },
            buffers=estimate.buffers,
            gradients=step.gradients,
            optimizer_state=step.state,
            kept=by_component(step.activations),
            peaks={k: v + estimate.fixed for k, v in step.peaks.items()},
            at_peak=by_component(step.at_peak),
            peak=estimate.peak,
            needs=needed(estimate),
            cards={
                card.name: vars(room(card, estimate, larger, fewest))
                for card in cards
            },
        )
    return dict(config=name, batch=vars(shape), options=found)
