"""The text of a config in a checkpoint, read as data.

MMEngine keeps the config in each checkpoint as Python's text, which its
``Config.fromstring`` executes.  :func:`config_from_text` takes its place: only
literals and ``dict(...)`` are read.  Values can run code, too, where MMEngine
imports the module or calls the object that they name; those are checked.
"""

import ast
import re
import sys
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from typing import Any

from mmengine.config import Config
from mmengine.utils import import_modules_from_strings

from .trust import REMEDY, is_trusted

PACKAGES = (
    *('mmengine', 'mmcv', 'mmdet', 'mmseg', 'mmrotate', 'mmpretrain'),
    'mmflora',
)
"""The packages whose modules a config in a checkpoint may import."""

# Classes in these, or registered under these scopes, may be named as types.
_HOMES = (*PACKAGES, 'torch.nn', 'torch.optim')
# What a class is named like; these two read other files or build anything.
_CLASS = re.compile(r'_*[A-Z]\w*(?<!Runner)(?<!Inferencer)')
_NAME = re.compile(r'[^\W\d]\w*(\.[^\W\d]\w*)*')
# Settings whose text mmcv and mmdet evaluate.
_EVALUATED = ('type', 'warp_mode')
# Settings that name a package: MMEngine imports its module `registry`.
_SCOPES = ('_scope_', 'default_scope')
_stock_fromstring = Config.fromstring
# Where texts come from, for errors: the hash of a text to its file.
_files: dict[int, str] = {}


class _NotLiteral(ValueError):  # noqa: N818
    """The expression is no literal."""

    def __init__(self, node: ast.AST) -> None:
        super().__init__()
        self.node = node


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
        try:
            settings.update(_assigned(statement))
        except _NotLiteral:
            continue
    return settings


def note_config_texts(checkpoint: Any, path: str) -> None:
    """Remember which file the config texts of a checkpoint came from.

    Args:
        checkpoint: What was read.
        path: The file.
    """
    for keys in (
        *(('meta', 'cfg'), ('meta', 'config')),
        ('message_hub', 'runtime_info', 'cfg'),
    ):
        text = checkpoint
        for key in keys:
            text = text.get(key) if isinstance(text, Mapping) else None
        if isinstance(text, str):
            _files[hash(text)] = path


def config_from_text(cfg_str: str, file_format: str) -> Config:
    """Read a config's text, without running any of it.

    It takes the place of ``Config.fromstring``, which does the same for
    trusted files, and for texts that are no Python.

    Args:
        cfg_str: The text.
        file_format: ``'.py'``, ``'.json'``, ``'.yaml'`` or ``'.yml'``.

    Raises:
        ValueError: If it holds anything but literals, or names what would
            run; says in which file and line.
    """
    if file_format != '.py' or is_trusted():
        return _stock_fromstring(cfg_str, file_format)
    file = _files.get(hash(cfg_str))
    where = f"The config in '{file}'" if file else 'The text of a config'
    settings: dict[str, Any] = {}
    lines = cfg_str.splitlines()
    try:
        for statement in ast.parse(cfg_str).body:
            settings.update(_assigned(statement))
    except _NotLiteral as error:
        number = getattr(error.node, 'lineno', 1)
        raise ValueError(
            f'{where}, line {number}, holds code: '
            f'{lines[number - 1].strip():.100}. It was not run; a config '
            f'there is read as plain values. {REMEDY} Or give the config '
            'itself, by its file.'
        ) from None
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ValueError(
            f'{where} cannot be read ({type(error).__name__}: {error}). Give '
            'the config itself, by its file.'
        ) from error
    for reason in _dangers(settings):
        raise ValueError(
            f'{where} {reason}, which could run code and is refused. {REMEDY}'
        )
    config = Config(settings, cfg_text=cfg_str)
    if config.get('custom_imports'):
        import_modules_from_strings(**config['custom_imports'])
    return config


def _dangers(settings: Mapping[str, Any]) -> Iterator[str]:
    """Yield what in the settings would run code when they are used."""
    if '_base_' in settings:
        yield f'names the file {settings["_base_"]!r} to run (`_base_`)'
    imports = settings.get('custom_imports')
    names = imports.get('imports') if isinstance(imports, Mapping) else None
    for name in [names] if isinstance(names, str) else names or ():
        if not _importable(str(name)):
            yield (
                f'names the module {name!r} to import (`custom_imports`; '
                'import it before, if you know it)'
            )
    pending: list[Any] = [settings]
    while pending:
        node = pending.pop()
        if isinstance(node, Mapping):
            pending += node.values()
            for key in _EVALUATED:
                value = node.get(key)
                if isinstance(value, str) and not _harmless(value, key):
                    yield f'has {key}={value!r:.100}'
            for key in _SCOPES:
                value = node.get(key)
                if isinstance(value, str) and not _importable(value):
                    yield (
                        f'names the package {value!r} to import (`{key}`; '
                        'import it before, if you know it)'
                    )
        elif isinstance(node, (list, tuple, set)):
            pending += node


def _importable(module: str) -> bool:
    return module.split('.')[0] in PACKAGES or module in sys.modules


def _harmless(name: str, key: str) -> bool:
    """Return whether MMEngine finds by a name nothing but a class."""
    if not _NAME.fullmatch(name):
        return False
    home, dot, last = name.rpartition('.')
    if not dot:  # MMEngine imports a module of this name, if it is no class
        return name in sys.modules or find_spec(name) is None
    if key != 'type':
        return home == 'cv2'
    return bool(_CLASS.fullmatch(last)) and any(
        f'{home}.'.startswith(f'{allowed}.') for allowed in _HOMES
    )


def _assigned(statement: ast.stmt) -> dict[str, Any]:
    """Return what a statement sets: one name, or nothing (a docstring)."""
    if isinstance(statement, ast.Assign):
        target = statement.targets[0]
        if isinstance(target, ast.Name) and len(statement.targets) == 1:
            return {target.id: _literal(statement.value)}
    elif isinstance(statement, ast.Expr) and isinstance(
        statement.value, ast.Constant
    ):
        return {}
    raise _NotLiteral(statement)


def _literal(node: ast.expr | None) -> Any:
    match node:
        case ast.Constant():
            return node.value
        case ast.List() | ast.Tuple() | ast.Set():
            kind = {ast.List: list, ast.Tuple: tuple, ast.Set: set}[type(node)]
            return kind(map(_literal, node.elts))
        case ast.Dict():
            return _dict(node)
        case ast.UnaryOp(op=ast.USub()):
            value = _literal(node.operand)
            if isinstance(value, (int, float)):
                return -value
        case ast.Name(id='inf' | 'nan'):  # as they are written by `repr`
            return float(node.id)
        case ast.Call(func=ast.Name(id='dict')):
            if all(isinstance(item, ast.Dict) for item in node.args[:1]):
                items = _dict(node.args[0]) if node.args else {}
                named = {word.arg: word.value for word in node.keywords}
                if len(node.args) < 2 and None not in named:
                    return items | {k: _literal(v) for k, v in named.items()}
    raise _NotLiteral(node or ast.Pass(lineno=1))


def _dict(node: Any) -> dict[Any, Any]:
    try:
        return {
            _literal(key): _literal(value)
            for key, value in zip(node.keys, node.values, strict=True)
        }
    except TypeError:  # a key that cannot be one
        raise _NotLiteral(node) from None


def read_literal(text: str, what: str) -> Any:
    """Read a literal or ``dict(...)``; nothing of it runs.

    Args:
        text: Python's text of the value.
        what: What it is, for errors.

    Raises:
        ValueError: If it is anything else.
    """
    try:
        return _literal(ast.parse(text.strip(), mode='eval').body)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ValueError(
            f'{what} is {text!r}, which is no plain value. Write it as in a '
            'config, in quotation marks: "dict(type=\'FLoRA\', rank=8)".'
        ) from error
