"""Entries of a study file: what is unknown or twice is an error."""

import difflib
import math
import re
from collections.abc import Collection, Mapping
from dataclasses import MISSING, fields
from typing import Any, TypeVar

_NAME = re.compile(r'\w[\w.+-]*')
_T = TypeVar('_T')


def named_entries(
    kind: type[_T], entries: list[Any], where: str
) -> dict[str, _T]:
    """Return entries by their names, which must differ."""
    named: dict[str, _T] = {}
    for number, raw in enumerate(entries):
        entry: Any = entry_of(kind, raw, f'{where}[{number}]')
        if not isinstance(entry.name, str) or not _NAME.fullmatch(entry.name):
            raise ValueError(
                f"{where}[{number}]: the name {entry.name!r} can't be that of "
                'a folder. Use letters, digits and any of . + - _'
            )
        if entry.name in named:
            raise ValueError(
                f"{where}: the name '{entry.name}' occurs twice. Give one of "
                "them another: dict(name='…', …)."
            )
        named[entry.name] = entry
    return named


def entry_of(kind: Any, raw: Any, where: str) -> Any:
    """Return an object of a class from its settings."""
    if not isinstance(raw, Mapping):
        raise ValueError(f'{where} is {raw!r}; give dict(…).')
    known = {item.name: item for item in fields(kind)}
    for key in raw:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, 1)
            raise ValueError(
                f"{where} has the unknown setting '{key}'"
                + (f"; is it '{near[0]}'?" if near else '.')
                + f' Known: {", ".join(known)}.'
            )
    for name, item in known.items():
        needed = item.default is MISSING and item.default_factory is MISSING
        if needed and name not in raw:
            raise ValueError(f'{where} ({raw.get("name")}) lacks `{name}`.')
    return kind(**raw)


def known_name(name: str, known: Collection[str], what: str) -> str:
    """Return a name, if it is known.

    Raises:
        ValueError: If it is not; lists the known ones.
    """
    if name not in known:
        raise ValueError(
            f"{what} '{name}' is not in the study. It has {', '.join(known)}."
        )
    return name


def different_numbers(value: Any, kind: type, where: str) -> tuple[Any, ...]:
    """Return numbers that differ."""
    items = value if isinstance(value, (list, tuple, range)) else [value]
    allowed = (int, float) if kind is float else int
    for item in items:
        if isinstance(item, bool) or not isinstance(item, allowed):
            raise ValueError(f'{where} holds {item!r}, no {kind.__name__}.')
    numbers = tuple(map(kind, items))
    if not numbers or len(set(numbers)) < len(numbers):
        raise ValueError(f'{where} is {value!r}; give different numbers.')
    return numbers


def as_list(value: Any) -> list[Any]:
    """Return a list of what may be one thing alone."""
    return list(value) if isinstance(value, (list, tuple)) else [value]


def check_points(methods: Mapping[str, Any], path: str) -> None:
    """Check the places of methods on the curves of a sweep.

    Raises:
        ValueError: If one has no curve or no place there, or that of another.
    """
    taken: dict[Any, str] = {}
    for name, method in methods.items():
        if not method.curve and not method.at:
            continue
        where = f"{path}: the method '{name}'"
        numbers = isinstance(method.at, Mapping) and all(
            isinstance(value, (int, float)) and math.isfinite(value)
            for value in method.at.values()
        )
        named = numbers and all(map(_NAME.fullmatch, map(str, method.at)))
        if not method.curve or not named or len(method.at) != 1:
            raise ValueError(
                f'{where} has curve={method.curve!r} and at={method.at!r}. A '
                "point of a sweep has both: curve='flora', at=dict(scale=4); "
                'the name of the setting has letters, digits and . + - _'
            )
        point = (method.curve, *method.at.items())
        if point in taken:
            raise ValueError(
                f"{where} is at the place of '{taken[point]}' on the curve "
                f"'{method.curve}': {dict(method.at)}. Change `at` or `curve`."
            )
        taken[point] = name
