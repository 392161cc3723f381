"""The forecast as tables, and as JSON."""

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mmflora.count.table import markdown

from .batch import BatchShape
from .cards import (
    CONTEXT,
    FRAGMENTATION,
    GIB,
    WORKSPACES,
    Card,
    Room,
    needed,
    room,
)
from .estimate import Estimate
from .step import BACKWARD, GRADIENTS, INPUTS, LOSSES, STATE, UPDATE

# More numbered children than this are one component.
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


@dataclass(frozen=True)
class Forecast:
    """What is predicted of a config, and for which GPUs.

    Attributes:
        name: The config's name.
        shape: What a batch is like.
        pairs: By the option's name its estimate, and that of a larger batch;
            the config as it is comes first.
        cards: The GPUs.
        fewest: Images with which the model trains at all.
        sharding: What shares it out among GPUs, if anything does.
    """

    name: str
    shape: BatchShape
    pairs: Mapping[str, Sequence[Estimate]]
    cards: Sequence[Card]
    fewest: int = 1
    sharding: str = ''

    @property
    def own(self) -> Estimate:
        """The estimate of the config as it is."""
        return next(iter(self.pairs.values()))[0]

    def room(self, option: str, card: Card) -> Room:
        """Return how an option fits a card."""
        estimate, larger = self.pairs[option]
        return room(card, estimate, larger, self.fewest)

    def __str__(self) -> str:
        """Return all of it in words and tables."""
        parts = (
            self.about(),
            self.terms_table(),
            self.options_table(),
            '\n'.join(map(self.advice, self.cards)),
            LEGEND.strip(),
        )
        return '\n\n'.join(parts)

    def about(self) -> str:
        """Return in words what is predicted, and assumed of the data."""
        shape, own = self.shape, self.own
        lines = [
            f'{self.name}: a training step of {shape.images} images of '
            f'{shape.height}x{shape.width} ({shape.source}) on one GPU.'
        ]
        if own.assigns:
            lines.append(
                f'Assumed: {shape.objects} objects (of a segmenter: classes) '
                'in each image.'
            )
        if own.positives:
            lines.append(
                'Assumed: the most positives that a second stage takes, '
                f'{own.positives} per image.'
            )
        if self.sharding:
            lines.append(
                f'Everything that {self.sharding} shards over GPUs is counted '
                'in full, as for one GPU.'
            )
        if own.assumed:
            lines.append(
                'Some values that depend on the network were read, and taken '
                f'for zero (by {", ".join(sorted(own.assumed))}).'
            )
        return '\n'.join(lines)

    def terms_table(self) -> str:
        """Return the table of what a step of the config consists of."""
        own, step = self.own, self.own.step
        rows = [
            (f'weights: {part}', dtype, size)
            for (part, dtype), size in own.weights.items()
        ]
        rows.append(('buffers', '', own.buffers))
        rows.append((GRADIENTS, '', step.gradients))
        rows.append((STATE, '', step.state))
        for what, sizes in (
            ('kept', step.activations),
            (f'peak, {step.peak_phase}', step.at_peak),
        ):
            items = list(by_component(sizes).items())
            rows.append((what, 'all', sum(sizes.values())))
            rows += [(what, *item) for item in items[:_LARGEST_TERMS]]
            if rest := sum(size for _, size in items[_LARGEST_TERMS:]):
                rows.append((what, 'the rest', rest))
        rows.append(('peak', 'with weights', own.peak))
        return markdown(
            ['what', 'of', 'GB'],
            [[what, name, gigabytes(size)] for what, name, size in rows],
        )

    def options_table(self) -> str:
        """Return the table of what each option needs, and whether it fits."""
        header = [
            *('option', 'weights', 'gradients', STATE),
            *('kept', 'peak', 'needs'),
        ]
        for card in self.cards:
            header += [f'{card.name}: spare', 'images']
        rows = []
        for option, (estimate, _) in self.pairs.items():
            sizes = (
                estimate.fixed,
                estimate.step.gradients,
                estimate.step.state,
                sum(estimate.step.activations.values()),
                estimate.peak,
                needed(estimate),
            )
            row = [option, *map(gigabytes, sizes)]
            for card in self.cards:
                fit = self.room(option, card)
                row += [f'{fit.margin / GIB:+.1f}', str(fit.largest_batch)]
            rows.append(row)
        return markdown(header, rows)

    def advice(self, card: Card) -> str:
        """Return whether the config fits a card, and what would make it."""
        own, *others = self.pairs
        fit = self.room(own, card)
        if fit.margin >= 0:
            return (
                f'{card.name}: fits, {gigabytes(fit.margin)} GB spare; up to '
                f'{fit.largest_batch} images.'
            )
        sizes = {name: needed(pair[0]) for name, pair in self.pairs.items()}
        ways = [
            f'{name} ({gigabytes(sizes[name])} GB)'
            for name in others
            if self.room(name, card).margin >= 0
        ]
        if fit.largest_batch:
            ways.append(f'--batch {fit.largest_batch}')
        least = min(sizes, key=lambda name: sizes[name])
        return (
            f'{card.name}: does not fit, {gigabytes(-fit.margin)} GB missing. '
        ) + (
            f'It fits with {" or ".join(ways)}.'
            if ways
            else 'No option fits either; the smallest needs '
            f'{gigabytes(sizes[least])} GB ({least}).'
        )

    def as_json(self) -> dict[str, Any]:
        """Return all figures, in bytes, for a JSON file."""
        found = {}
        for option, (estimate, _) in self.pairs.items():
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
                    card.name: self.room(option, card)._asdict()
                    for card in self.cards
                },
            )
        return dict(config=self.name, batch=vars(self.shape), options=found)


def gigabytes(size: float) -> str:
    """Return bytes as GB of 2^30, with a sensible number of digits."""
    value = size / GIB
    return f'{value:.3f}' if abs(value) < 0.1 else f'{value:.2f}'


def component(owner: str, crowded: Collection[str] = ()) -> str:
    """Return the component that a module belongs to, by its name.

    Args:
        owner: The module's name, or what a storage is for.
        crowded: Names of modules whose children are one component.

    Example:
        >>> component('backbone.stages.2.blocks.7.mlp.fc1')
        'backbone.stages.2'
    """
    if owner in (INPUTS, LOSSES, BACKWARD, GRADIENTS, STATE, UPDATE):
        return owner
    parts = owner.split('.')
    parent = '.'.join(parts[:2])
    if parent in crowded:
        return f'{parent}.*'
    if parts[0] == 'backbone':
        return re.sub(r'(\.\w+(\.\d+)?).*', r'\1', owner)
    return parent if parts[0] == 'roi_head' else parts[0]


def by_component(sizes: Mapping[str, int]) -> dict[str, int]:
    """Sum bytes by component, the largest first."""
    children = defaultdict(set)
    for owner in sizes:
        if match := re.match(r'(backbone\.\w+)\.(\d+)(?:\.|$)', owner):
            children[match[1]].add(match[2])
    crowded = {name for name in children if len(children[name]) > _FEW}
    sums: Counter[str] = Counter()
    for owner, size in sizes.items():
        sums[component(owner, crowded)] += size
    return dict(sums.most_common())
