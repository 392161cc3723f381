"""Checks of a method's settings; every error names what is allowed."""

import difflib
import inspect
import math
from collections.abc import Mapping
from numbers import Real
from typing import Any

from mmflora.registry import ADAPTERS

from .targets import check_names


def check_type(adapter: Any) -> None:
    """Check that a configuration names a registered method.

    Raises:
        TypeError: If it is no dict with a type.
        ValueError: If there is no such method; the nearest is named.
    """
    if not isinstance(adapter, Mapping) or 'type' not in adapter:
        raise TypeError(
            "`adapter` is a dict with a type, such as dict(type='FLoRA', "
            f'rank=16), got {adapter!r}.'
        )
    kind = adapter['type']
    # The registry would import a module that an unknown name spells, and the
    # name may come from a file.
    if not isinstance(kind, str) or (
        kind.removeprefix('mmflora.') in ADAPTERS.module_dict
    ):
        return
    known = {name.lower(): name for name in sorted(ADAPTERS.module_dict)}
    near = difflib.get_close_matches(kind.lower(), known, n=1)
    hint = f' Did you mean {known[near[0]]!r}?' if near else ''
    if kind.lower() not in known and _is_pefts(kind):
        hint = (
            ' It is a method of huggingface/peft: '
            f"dict(type='HFPEFT', peft_type='{kind.upper()}')."
        )
    raise ValueError(
        f"Unknown adapter type '{kind}'.{hint} Registered adapters: "
        f'{", ".join(known.values())}.'
    )


def _is_pefts(kind: str) -> bool:
    """Return whether huggingface/peft is installed and has such a method."""
    # Here, as the bridge is an adapter itself, and peft takes long to import.
    from .hf_peft.catalogue import supported_types

    try:
        return kind.upper() in supported_types()
    except ImportError:
        return False


def settings_for(
    common: Mapping[str, Any], own: Mapping[str, Any]
) -> dict[str, Any]:
    """Return a pattern's settings: another ``type`` has its own alone."""
    if own.get('type', common.get('type')) != common.get('type'):
        return dict(own)
    return {**common, **own}


def check_settings(method: type, given: Mapping[str, Any]) -> None:
    """Check that a method has the settings that are given.

    They are the arguments of its constructor, but for the first, which is the
    weight or block, and for those that ``from_layer`` names: these the method
    reads from the layer itself.

    Raises:
        TypeError: If it has no such setting; the nearest is named.
    """
    _, *arguments = inspect.signature(method).parameters.values()
    if any(item.kind is item.VAR_KEYWORD for item in arguments):
        return  # whatever the class makes of it
    own = [item.name for item in arguments]
    read = getattr(method, 'from_layer', ())
    known = [name for name in own if name not in read]
    check_names(method.__name__, 'setting', given, known)


# Beyond these no weight has a use for a rank, and float32 none for a factor.
LARGEST_COUNT = 1 << 16
LARGEST_FACTOR = 1e8
MOST_ITERATIONS = 1000


def is_whole(value: Any, least: int, most: int) -> bool:
    """Return whether a value is an integer, no flag, within bounds."""
    whole = isinstance(value, int) and not isinstance(value, bool)
    return whole and least <= value <= most


def check_count(method: str, name: str, value: Any) -> int:
    """Return a rank or width.

    Raises:
        ValueError: If it is no integer of at least 1, or out of all reason.
    """
    if not is_whole(value, 1, LARGEST_COUNT):
        raise ValueError(
            f'{method}: `{name}` is an integer of at least 1 and at most '
            f'{LARGEST_COUNT}, got {name}={value!r}.'
        )
    return int(value)


def check_factor(method: str, name: str, value: Any) -> float:
    """Return a factor on an update.

    Raises:
        TypeError: If it is no number.
        ValueError: If it is zero or not finite, or out of all reason.
    """
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(
            f'{method}: `{name}` is a number, such as 4.0, got '
            f'{name}={value!r}.'
        )
    try:
        number = float(value)
    except OverflowError:  # an integer beyond all floats
        number = math.inf
    if not math.isfinite(number) or number == 0:
        raise ValueError(
            f'{method}: {name} must be finite and not zero, else nothing is '
            f'learned; got {name}={value!r}.'
        )
    if not 1 / LARGEST_FACTOR <= abs(number) <= LARGEST_FACTOR:
        raise ValueError(
            f'{method}: the size of `{name}` is between {1 / LARGEST_FACTOR} '
            f'and {LARGEST_FACTOR:.0e}, got {name}={value!r}; adjust the '
            'learning rate instead.'
        )
    return number


def check_flag(method: str, name: str, value: Any) -> bool:
    """Return a setting that is on or off.

    Raises:
        TypeError: If it is neither ``True`` nor ``False``.
    """
    if not isinstance(value, bool):
        raise TypeError(
            f'{method}: `{name}` is True or False, got {name}={value!r}.'
        )
    return value


def check_choice(
    method: str, name: str, value: Any, allowed: tuple[str, ...]
) -> str:
    """Return one of several words.

    Raises:
        ValueError: If it is none of them.
    """
    if not isinstance(value, str) or value not in allowed:
        raise ValueError(
            f'{method}: `{name}` is one of {", ".join(allowed)}, got '
            f'{name}={value!r}.'
        )
    return value


def check_probability(method: str, name: str, value: Any) -> float:
    """Return a probability with which something is dropped.

    Raises:
        ValueError: If it is no number in [0, 1).
    """
    number = isinstance(value, Real) and not isinstance(value, bool)
    if not number or not 0.0 <= float(value) < 1.0:
        raise ValueError(
            f'{method}: {name} is a probability in [0, 1), got '
            f'{name}={value!r}.'
        )
    return float(value)


def check_share(method: str, name: str, value: Any) -> float:
    """Return a share of a whole.

    Raises:
        ValueError: If it is no number in (0, 1].
    """
    number = isinstance(value, Real) and not isinstance(value, bool)
    if not number or not 0.0 < float(value) <= 1.0:
        raise ValueError(
            f'{method}: `{name}` is a share in (0, 1], got {name}={value!r}.'
        )
    return float(value)


def check_iterations(method: str, value: Any) -> int | None:
    """Return how often an iteration runs, ``None`` for none of it.

    Raises:
        ValueError: If it is neither ``None`` nor an integer from 0 on.
    """
    if value is not None and not is_whole(value, 0, MOST_ITERATIONS):
        raise ValueError(
            f'{method}: `iterations` is an integer of at least 0 and at most '
            f'{MOST_ITERATIONS}, or None for the exact decomposition, got '
            f'iterations={value!r}.'
        )
    return value
