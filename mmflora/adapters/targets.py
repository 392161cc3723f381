"""Patterns of names: which layers a configuration means."""

import difflib
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

Targets = str | Iterable[str] | Mapping[str, Mapping[str, Any]]


def compile_patterns(
    patterns: Targets, argument: str
) -> dict[str, re.Pattern[str]]:
    """Compile one pattern, several, or those that a mapping has as keys.

    Raises:
        ValueError: If one is no regular expression.
    """
    names = [patterns] if isinstance(patterns, str) else list(patterns)
    compiled = {}
    for name in names:
        try:
            compiled[name] = re.compile(name)
        except re.error as error:
            raise ValueError(
                f'`{argument}`: {name!r} is no regular expression ({error}).'
            ) from error
    return compiled


def first_match(
    patterns: Mapping[str, re.Pattern[str]], name: str
) -> str | None:
    """Return the first pattern that matches the whole name, if any."""
    for text, pattern in patterns.items():
        if pattern.fullmatch(name):
            return text
    return None


def check_patterns(
    patterns: Mapping[str, re.Pattern[str]],
    layers: Collection[str],
    argument: str,
) -> None:
    """Check that each pattern matches a layer.

    Raises:
        ValueError: If one does not; the nearest names are listed.
    """
    for text, pattern in patterns.items():
        if any(pattern.fullmatch(name) for name in layers):
            continue
        near = difflib.get_close_matches(
            text.replace('\\', ''), layers, n=5, cutoff=0.0
        )
        raise ValueError(
            f'`{argument}`: {text!r} matches none of the '
            f"{len(layers)} layers. A pattern must match a layer's whole name "
            f'(re.fullmatch); the nearest names are {", ".join(near)}.'
        )


def did_you_mean(name: Any, known: Iterable[str]) -> str:
    """Return a hint at the nearest known name, ``''`` where none is near."""
    near = difflib.get_close_matches(str(name), list(known), n=1)
    return f' Did you mean {near[0]!r}?' if near else ''


def check_names(
    owner: str, kind: str, given: Mapping[str, Any], known: Sequence[str]
) -> None:
    """Check that settings that are given are known.

    Raises:
        TypeError: If one is not; the nearest is named.
    """
    for name, value in given.items():
        if name not in known:
            raise TypeError(
                f'{owner} has no {kind} {name!r}, got {name}={value!r}.'
                f'{did_you_mean(name, known)} Its {kind}s are '
                f'{", ".join(known) or "none"}.'
            )
