"""What was changed in a config, one line each."""

import textwrap
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

# Characters of a value, and of a line beside the places.
_LONGEST = 60
_WIDTH = 100


@dataclass(frozen=True)
class Change:
    """One change of a config.

    Attributes:
        place: Where, such as ``'model.backbone.init_cfg'``.
        before: What stood there; ``None`` where nothing did.
        after: What stands there now; ``None`` where nothing does.  Where it
            equals ``before``, nothing was changed, and ``why`` says what to
            know.
        why: The reason, for the reader of a table.
    """

    place: str
    before: Any
    after: Any
    why: str = ''

    def __str__(self) -> str:
        """Return ``place: before -> after (why)``."""
        reason = f' ({self.why})' if self.why else ''
        return f'{self.place}: {self.what}{reason}'

    @property
    def what(self) -> str:
        """What was and is there, on one line."""
        before, after = _short(self.before), _short(self.after)
        if self.before == self.after:
            return 'stays as it is' if self.after is None else f'{after} stays'
        if self.before is None:
            return after
        return f'{before} -> {"nothing" if self.after is None else after}'


def changes_table(changes: Iterable[Change]) -> str:
    """Return a table of the changes: places, what changed there, and why."""
    rows = list(changes)
    width = max((len(row.place) for row in rows), default=0)
    margin = ' ' * (width + 2)
    lines = []
    for row in rows:
        text = f'{row.what}; {row.why}' if row.why else row.what
        first = f'{row.place:<{width}}  '
        lines += textwrap.wrap(
            text,
            width + _WIDTH,
            initial_indent=first,
            subsequent_indent=margin,
        )
    return '\n'.join(lines)


def _short(value: Any) -> str:
    """Return a value as a config writes it, a long one shortened."""
    text = value if isinstance(value, str) else _text(value)
    if len(text) <= _LONGEST:
        return text
    return f'{text[: _LONGEST - 20]}…{text[-19:]}'


def _text(value: Any) -> str:
    if isinstance(value, dict):
        inner = ', '.join(f'{key}={_text(v)}' for key, v in value.items())
        return f'dict({inner})'
    if isinstance(value, list):
        return f'[{", ".join(map(_text, value))}]'
    return value.__name__ if isinstance(value, type) else repr(value)


def name_of(kind: Any) -> str:
    """Return a ``type`` as text: configs may name classes themselves."""
    return kind if isinstance(kind, str) else getattr(kind, '__name__', '?')
