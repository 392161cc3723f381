"""Settings out of a config's text, without running it.

MMEngine keeps the config in each checkpoint as Python's text, which
``Config.fromstring`` would execute.  Here only literals, ``dict(...)`` and
what is made of them are read; anything else is left out.
"""

import ast
from typing import Any


class _NotLiteral(Exception):  # noqa: N818
    """The expression is no literal."""


def read_settings(text: str) -> dict[str, Any]:
    """Return the settings at the top of a config's text.

    Args:
        text: ``Config.pretty_text``.

    Returns:
        By name what could be read; nothing of a text that is no Python.
    """
    try:
        statements = ast.parse(text).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return {}
    settings = {}
    for statement in statements:
        if not isinstance(statement, ast.Assign):
            continue
        (target,) = statement.targets[:1]
        if isinstance(target, ast.Name):
            try:
                settings[target.id] = _literal(statement.value)
            except _NotLiteral:
                continue
    return settings


def _literal(node: ast.expr) -> Any:
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, (ast.List, ast.Tuple)):
        items = [_literal(item) for item in node.elts]
        return items if isinstance(node, ast.List) else tuple(items)
    if isinstance(node, ast.Dict):
        return {
            _literal(_given(key)): _literal(value)
            for key, value in zip(node.keys, node.values, strict=True)
        }
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        value = _literal(node.operand)
        if isinstance(value, (int, float)):
            return -value
    if (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == 'dict'
        and not node.args
    ):
        return {
            keyword.arg: _literal(keyword.value)
            for keyword in node.keywords
            if keyword.arg is not None
        }
    raise _NotLiteral


def _given(key: ast.expr | None) -> ast.expr:
    if key is None:
        raise _NotLiteral
    return key
