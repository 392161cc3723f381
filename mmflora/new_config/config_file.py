"""The text of a short config that inherits, from two whole ones.

The text says what differs from the base, in Python that reads well: parts of
the base that stay are named (``_base_.train_pipeline``), not repeated.
"""

import keyword
from collections.abc import Mapping
from typing import Any

_WIDTH = 79
# Variables of a config that its settings are written with.
_NAMED = (
    *('metainfo', 'images', 'annotations'),
    *('train_pipeline', 'test_pipeline'),
)
# Shorter values are written out, not named.
_WORTH_A_NAME = 60
_SECTIONS = (
    ('classes', ('metainfo', 'images', 'annotations')),
    ('model', ('model',)),
    (
        'data',
        (
            *('train_pipeline', 'test_pipeline'),
            *('train_dataloader', 'val_dataloader', 'test_dataloader'),
            *('val_evaluator', 'test_evaluator'),
        ),
    ),
    (
        'schedule',
        ('train_cfg', 'val_cfg', 'test_cfg', 'param_scheduler')
        + ('optim_wrapper', 'auto_scale_lr'),
    ),
)


class Code(str):
    """Python source that stands for a value."""


class Part(dict[str, Any]):
    """Settings that differ from those of a part of the base."""

    def __init__(self, place: str, settings: Mapping[str, Any]) -> None:
        super().__init__(settings)
        self.first = f'_base_.{place}'


def config_text(
    base_name: str,
    base: Mapping[str, Any],
    new: Mapping[str, Any],
    comments: Mapping[str, str],
) -> str:
    """Return the text of a config that turns its base into the new one.

    Args:
        base_name: What ``_base_`` is to be.
        base: The settings of the base.
        new: All settings wanted.
        comments: What to say above the file (``'file'``) and its sections
            (``'classes'``, ``'model'``, ``'data'``, ``'schedule'``,
            ``'rest'``).

    Returns:
        Python's text.
    """
    writer = _Writer(base)
    for name in _NAMED:
        if name in new and not _equal(new[name], base.get(name)):
            writer.names.append((name, new[name]))
    changed = writer.difference(base, new, '')
    lines = [_comment(comments.get('file', '')), f'_base_ = {base_name!r}\n']
    placed = {key for _, keys in _SECTIONS for key in keys}
    rest = tuple(key for key in changed if key not in placed)
    for section, keys in (*_SECTIONS, ('rest', rest)):
        present = [key for key in keys if key in changed]
        if present:
            lines.append('\n' + _comment(comments.get(section, '')))
        for key in present:
            value = changed[key]
            other = key.replace('test_', 'val_')
            if key != other and changed.get(other) == value:
                value = Code(other)
            lines.append(f'{key} = {code(value, 0, len(key) + 3)}\n')
    return ''.join(lines)


class _Writer:
    def __init__(self, base: Mapping[str, Any]) -> None:
        self.names: list[tuple[str, Any]] = []
        self._places: dict[str, str] = {}
        self._base = base
        for key, value in base.items():
            self._index(value, key)

    def _index(self, value: Any, place: str) -> None:
        """Remember where each large part of the base stands."""
        if isinstance(value, Mapping):
            inner = [(f'{place}.{key}', v) for key, v in value.items()]
            usable = all(str(key).isidentifier() for key in value)
        elif isinstance(value, (list, tuple)):
            inner, usable = [], False
        else:
            return
        text = repr(value)
        if len(text) >= _WORTH_A_NAME:
            self._places.setdefault(text, place)
            if usable:
                for name, item in inner:
                    self._index(item, name)

    def difference(
        self, old: Mapping[str, Any], new: Mapping[str, Any], place: str
    ) -> dict[str, Any]:
        """Return what to write so that a merge with ``old`` gives ``new``."""
        if place and old.keys() - new.keys():
            written = {k: self.value(v) for k, v in new.items()}
            return {'_delete_': True, **written}
        changed: dict[str, Any] = {}
        for key, value in new.items():
            if key in old and _equal(old[key], value):
                continue
            before = old.get(key)
            if isinstance(value, Mapping) and isinstance(before, Mapping):
                where = f'{place}.{key}' if place else str(key)
                changed[key] = self.difference(before, value, where)
            elif isinstance(value, Mapping) and key in old:
                changed[key] = {
                    '_delete_': True,
                    **{k: self.value(v) for k, v in value.items()},
                }
            elif not place and key in _NAMED:
                changed[key] = value
            elif place and (alike := _alike(before, value)):
                where = f'_base_.{place}.{key}'
                words = ', '.join(f'{k}={_flat(v)}' for k, v in alike.items())
                changed[key] = Code(f'[dict(one, {words}) for one in {where}]')
            else:
                changed[key] = self.value(value)
        return changed

    def value(self, value: Any) -> Any:
        """Return a value, with names for what has one."""
        for name, named in self.names:
            if _equal(value, named):
                return Code(name)
            if (
                isinstance(named, str)
                and isinstance(value, str)
                and value.startswith(f'{named}/')
            ):
                return Code(f'{name} + {value[len(named) :]!r}')
        if isinstance(value, (Mapping, list, tuple)):
            known = self._places.get(repr(value))
            if known:
                return Code(f'_base_.{known}')
        if isinstance(value, Mapping):
            return self._nearly(value) or {
                k: self.value(v) for k, v in value.items()
            }
        # Items of a list read better in full.
        return value

    def _nearly(self, value: Mapping[str, Any]) -> Part | None:
        """Return what differs from a part of the base, if that is little."""
        if 'type' not in value:
            return None
        for place in self._places.values():
            node: Any = self._at(place)
            if (
                isinstance(node, Mapping)
                and node.get('type') == value['type']
                and node.keys() <= value.keys()
            ):
                differing = {
                    k: v
                    for k, v in value.items()
                    if k not in node or not _equal(node[k], v)
                }
                if len(differing) * 3 <= len(value):
                    return Part(
                        place, {k: self.value(v) for k, v in differing.items()}
                    )
        return None

    def _at(self, place: str) -> Any:
        node: Any = self._base
        for key in place.split('.'):
            node = node[key]
        return node


def code(value: Any, indent: int, used: int) -> str:
    """Return a value as Python, in lines of 79 columns.

    Args:
        value: Numbers, text, lists, tuples, dicts; :class:`Code` as it is.
        indent: Of the line that the value begins in.
        used: Columns of that line that are taken, the indent left out.
    """
    flat = _flat(value)
    if len(flat) + indent + used <= _WIDTH - 1 or isinstance(value, Code):
        return flat
    inner, pad = indent + 4, ' ' * (indent + 4)
    if isinstance(value, Mapping) and value:
        if _are_words(value):
            rows = [
                f'{k}={code(v, inner, len(k) + 1)}' for k, v in value.items()
            ]
            if isinstance(value, Part):
                rows.insert(0, value.first)
            opened, closed = 'dict(', ')'
        else:
            rows = [
                f'{k!r}: {code(v, inner, len(repr(k)) + 2)}'
                for k, v in value.items()
            ]
            opened, closed = '{', '}'
    elif isinstance(value, (list, tuple)) and value:
        if all(isinstance(v, (int, float, str, tuple)) for v in value) and all(
            len(_flat(v)) < 30 for v in value
        ):
            rows = _filled([_flat(v) for v in value], inner)
        else:
            rows = [code(v, inner, 0) for v in value]
        opened, closed = ('[', ']') if isinstance(value, list) else ('(', ')')
    else:
        return flat
    body = ''.join(f'{pad}{row},\n' for row in rows)
    return f'{opened}\n{body}{" " * indent}{closed}'


def _alike(old: Any, new: Any) -> dict[str, Any]:
    """Return what all dicts of a list get, if that is the whole change."""
    if not (
        isinstance(old, list)
        and isinstance(new, list)
        and len(old) == len(new) > 1
        and all(isinstance(one, Mapping) for one in (*old, *new))
    ):
        return {}
    changes = [
        {k: v for k, v in one.items() if k not in o or not _equal(o[k], v)}
        for o, one in zip(old, new, strict=True)
    ]
    same = all(_equal(change, changes[0]) for change in changes)
    kept = all(o.keys() <= n.keys() for o, n in zip(old, new, strict=True))
    plain = not any(isinstance(v, Mapping) for v in changes[0].values())
    return changes[0] if same and kept and plain else {}


def _filled(words: list[str], indent: int) -> list[str]:
    """Put short items together in lines."""
    rows: list[str] = []
    for word in words:
        if rows and len(rows[-1]) + len(word) + indent + 3 <= _WIDTH:
            rows[-1] += f', {word}'
        else:
            rows.append(word)
    return rows


def _flat(value: Any) -> str:
    if isinstance(value, Code):
        return str(value)
    if isinstance(value, Mapping):
        if _are_words(value):
            words = [f'{k}={_flat(v)}' for k, v in value.items()]
            if isinstance(value, Part):
                words.insert(0, value.first)
            return f'dict({", ".join(words)})'
        inner = ', '.join(f'{k!r}: {_flat(v)}' for k, v in value.items())
        return f'{{{inner}}}'
    if isinstance(value, list):
        return f'[{", ".join(map(_flat, value))}]'
    if isinstance(value, tuple):
        inner = ', '.join(map(_flat, value))
        return f'({inner},)' if len(value) == 1 else f'({inner})'
    return repr(value)


def _are_words(value: Mapping[str, Any]) -> bool:
    return all(
        isinstance(k, str) and k.isidentifier() and not keyword.iskeyword(k)
        for k in value
    )


def _equal(one: Any, other: Any) -> bool:
    """Return whether two values are the same, in type, too."""
    return type(one) is type(other) and repr(one) == repr(other)


def _comment(text: str) -> str:
    return ''.join(f'# {line}'.rstrip() + '\n' for line in text.splitlines())
