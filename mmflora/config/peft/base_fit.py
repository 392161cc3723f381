"""Whether a file is the base of a model's parts, and what of it is not."""

import re
from collections.abc import Iterable, Mapping
from math import prod
from typing import Any

from torch import nn

from mmflora.checkpoint.keys import Shapes, float_shapes
from mmflora.checkpoint.record import RECORD_NAME
from mmflora.files.sources import find_source, read_state_dict

LEAST_SHARE = 0.5
"""Share of a part's values that a base must hold to be a base of this part."""


def offered_shapes(source: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Return the shapes that the base's file offers, by key."""
    place = find_source(source['checkpoint'])
    stored = read_state_dict(place, source.get('prefix'))
    offered = float_shapes(stored)
    if any(key.split('.')[-2:] == [RECORD_NAME, 'info'] for key in stored):
        raise ValueError(
            f"The base '{place}' is an adapter checkpoint of mmflora, which "
            'holds no base. Merge it first (tools/merge.py), and give the '
            'merged checkpoint.'
        )
    return offered


def check_shares(
    model: nn.Module,
    parts: Iterable[str],
    offered: Shapes,
    expected: Shapes,
    source: Mapping[str, Any],
) -> None:
    """Refuse a base that is one of another model.

    Raises:
        ValueError: If a part finds less than half of its values there.
    """
    shares = {}
    for part in parts:
        own = {k: v for k, v in expected.items() if k.startswith(f'{part}.')}
        fits = [key for key in own if offered.get(key) == own[key]]
        total = sum(prod(shape) for shape in own.values())
        share = sum(prod(own[key]) for key in fits) / max(total, 1)
        shares[part] = (share, f'{len(fits)} of {len(own)} weights')
    if all(share >= LEAST_SHARE for share, _ in shares.values()):
        return
    raise ValueError(
        f"The base '{source['checkpoint']}' is one of another model. Of each "
        f'part of {type(model).__name__} it must hold at least half of the '
        'values, under the same keys and in the same shapes; it holds '
        + '; '.join(
            f"'{part}': {text} ({100 * share:.0f} % of the values)"
            for part, (share, text) in shares.items()
        )
        + f'. The keys of the file start with {_starts(offered)}.'
        + _other_prefix(offered, expected)
    )


def _starts(offered: Shapes) -> str:
    starts = list(dict.fromkeys(key.split('.')[0] for key in offered))
    more = ', …' if len(starts) > 8 else ''
    return ', '.join(f"'{start}'" for start in starts[:8]) + more


def _other_prefix(offered: Shapes, expected: Shapes) -> str:
    """Say under which prefix the file would fit, if there is one."""
    for start in dict.fromkeys(key.split('.')[0] for key in offered):
        inside = {
            key.removeprefix(f'{start}.'): shape
            for key, shape in offered.items()
        }
        fits = sum(inside.get(k) == shape for k, shape in expected.items())
        if fits >= LEAST_SHARE * len(expected):
            return (
                f" Under '{start}.' it would fit: give the base as "
                f"dict(checkpoint=..., prefix='{start}.')."
            )
    return ''


def patterns_of(keys: Iterable[str], known: Iterable[str]) -> list[str]:
    r"""Return regular expressions that match some keys and no others.

    Keys that differ in numbers alone share one: ``branches\.\d+\.weight``.

    Args:
        keys: What they must match.
        known: What they must not match, beyond that.
    """
    keys = list(keys)
    others = {_numberless(key) for key in set(known) - set(keys)}
    patterns: dict[str, None] = {}
    for key in keys:
        exact = re.escape(key)
        general = re.sub(r'(?<=\.)\d+(?=\\\.|$)', r'\\d+', exact)
        alone = _numberless(key) in others
        patterns[exact if alone else general] = None
    return list(patterns)


def _numberless(key: str) -> str:
    return re.sub(r'(?<=\.)\d+(?=\.|$)', '#', key)
