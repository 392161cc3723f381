"""A method by name, file or dict: how its settings are found."""

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from torch import nn

from mmflora.adapters import inject
from mmflora.adapters.settings import check_type
from mmflora.files.config_text import read_literal
from mmflora.models.peft_options import PEFTOptions
from mmflora.registry import ADAPTERS

from ..zoo_names import check_set_up
from .changes import Change, name_of

FOLDER = Path(__file__).parents[2] / '.mim' / 'configs' / '_base_' / 'methods'
"""The files of the methods that have names."""

# Files of that folder that are no method.
_NO_METHODS = ('plain',)


@dataclass(frozen=True)
class Method:
    """How frozen parts are adapted.

    Attributes:
        name: What it is called, in names of folders and files.
        peft: The settings, as in :class:`PEFTOptions`.
        hooks: Hooks that the method needs.
        written_for: The class for whose layers the patterns in ``peft`` were
            written, ``''`` if for those at hand.
    """

    name: str
    peft: dict[str, Any]
    hooks: list[dict[str, Any]] = field(default_factory=list)
    written_for: str = ''

    def __str__(self) -> str:
        """Return the adapter's name and settings."""
        adapter = self.peft['adapter']
        if adapter is None:
            return 'no adapters'
        own = [f'{k}={v!r}' for k, v in adapter.items() if k != 'type']
        return f'{name_of(adapter["type"])}({", ".join(own)})'

    @property
    def trains_base(self) -> bool:
        """Whether all it does is to train the base's own weights."""
        kind = (self.peft['adapter'] or {}).get('type')
        found = ADAPTERS.get(kind) if isinstance(kind, str) else kind
        return bool(getattr(found, 'ordinary', False))


def find_method(method: str | Mapping[str, Any]) -> Method:
    """Find a method's settings.

    Args:
        method: A name of ``configs/_base_/methods`` (``'flora-r16'``), the
            path of such a file of one's own, or the settings: either the
            adapter's, ``dict(type='FLoRA', rank=16)``, or all those of
            ``peft``, ``dict(adapter=..., targets=...)``.  As text a dict is
            read as data; nothing of it runs.

    Raises:
        FileNotFoundError: If a path names no file, or mmflora's own files
            are missing.
        TypeError: If a setting is unknown.
        ValueError: If the name is unknown, which names the nearest, or a text
            or file holds no method.
    """
    if isinstance(method, str) and method.lstrip().startswith(('dict(', '{')):
        method = read_literal(method, 'The method')
    if isinstance(method, Mapping):
        return _checked(_of_settings(method))
    if not isinstance(method, str):
        raise TypeError(
            "A method is a name, such as 'flora-r16', the path of a file, or "
            f"a dict, such as dict(type='FLoRA', rank=16); got {method!r}."
        )
    if method.endswith('.py') and '::' not in method:
        path = Path(method)
        if not path.is_file():
            raise FileNotFoundError(
                f"The file of the method '{method}' is not there "
                f"('{path.absolute()}')."
            )
    else:
        path = _named(method)
    return _checked(_of_file(path))


def method_names() -> list[str]:
    """Return the names of all methods."""
    paths = sorted(FOLDER.rglob('*.py'))
    names = [
        path.relative_to(FOLDER).with_suffix('').as_posix() for path in paths
    ]
    return [
        name for name in names if name.rpartition('/')[2] not in _NO_METHODS
    ]


def _named(name: str) -> Path:
    check_set_up(FOLDER)
    names = method_names()
    if name in names:
        return FOLDER / f'{name}.py'
    near = difflib.get_close_matches(name.lower(), names, n=3, cutoff=0.4)
    hint = f' The nearest are {", ".join(near)}.' if near else ''
    raise ValueError(
        f"Unknown method '{name}'.{hint} Known are {', '.join(names)}; or "
        'give the path of a file with `method`, or a dict such as '
        '"dict(type=\'FLoRA\', rank=8)".'
    )


def _of_file(path: Path) -> Method:
    try:
        cfg = Config.fromfile(str(path))
    except (OSError, SyntaxError) as error:
        raise ValueError(
            f"The method's file '{path}' cannot be read: {error}"
        ) from error
    node = cfg.get('method')
    if not isinstance(node, Mapping) or not isinstance(
        node.get('peft'), Mapping
    ):
        raise ValueError(
            f"The file '{path}' names no method. It takes method=dict("
            "peft=dict(adapter=dict(type='FLoRA', rank=16)))."
        )
    return Method(
        path.stem,
        _plain(node['peft']),
        _plain(list(cfg.get('method_hooks') or ())),
        str(node.get('type', '')) if FOLDER in path.parents else '',
    )


def _of_settings(settings: Mapping[str, Any]) -> Method:
    plain = _plain(settings)
    peft = dict(adapter=plain) if 'type' in plain else plain
    adapter = peft.get('adapter')
    if not isinstance(adapter, Mapping):
        return Method('frozen', peft)
    rank = adapter.get('rank', adapter.get('r'))
    kind = adapter.get('peft_type', adapter.get('type', 'peft'))
    name = name_of(kind).rpartition('.')[2].lower()
    return Method(name if rank is None else f'{name}-r{rank}', peft)


def _checked(method: Method) -> Method:
    options = PEFTOptions.of(method.peft)
    if options.adapter is not None:
        check_type(options.adapter)
    return method


def fit_patterns(
    method: Method, place: str, module: nn.Module
) -> tuple[Method, list[Change]]:
    """Leave out a named method's patterns of layers that a module lacks.

    Its ``targets`` and ``exclude`` were written for the layers of one family
    of backbones.

    Raises:
        ValueError: If it trains the base's own weights and none of those that
            it means are there; all of them would train.
    """
    if not method.written_for:
        return method, []
    names = [name for name, _ in module.named_modules()]
    peft, changes = dict(method.peft), []
    for setting in ('targets', 'exclude'):
        given = peft.get(setting) or ()
        texts = [given] if isinstance(given, str) else list(given)
        kept = [
            text
            for text in texts
            if any(re.fullmatch(text, name) for name in names)
        ]
        if len(kept) == len(texts):
            continue
        if not kept and setting == 'targets' and method.trains_base:
            raise ValueError(
                f"'{place}': the method '{method.name}' trains "
                f'{", ".join(texts)}, and {type(module).__name__} has no such '
                'layers. Give the method as text with `targets` for this '
                "backbone: \"dict(adapter=dict(type='Full'), "
                "targets=r'blocks\\.11\\..*')\"."
            )
        if not kept:
            del peft[setting]
        elif isinstance(given, Mapping):
            peft[setting] = {text: given[text] for text in kept}
        else:
            peft[setting] = kept
        why = "the method's pattern for layers that are not there"
        changes += [
            Change(f'{place}.peft.{setting}', text, None, why)
            for text in texts
            if text not in kept
        ]
    return replace(method, peft=peft), changes


def say_layers(method: Method, place: str, module: nn.Module) -> list[Change]:
    """Say how many layers get an adapter, and which do not and why.

    Args:
        method: The method.
        place: Where the module stands.
        module: A module on the meta device; it is adapted.

    Raises:
        ValueError: If the method fits no layer, or one of its patterns none.
    """
    options = PEFTOptions.of(method.peft)
    if options.adapter is None:
        return []
    targets = options.targets
    if targets is None:
        targets = getattr(module, 'default_targets', '.*')
    try:
        with torch.device('meta'):
            report = inject(module, options.adapter, targets, options.exclude)
    except ValueError as error:
        raise ValueError(f"'{place}': {error}") from error
    reasons: dict[str, list[str]] = {}
    for name, reason in report.left_out.items():
        reasons.setdefault(reason, []).append(name)
    where = f'{place}: layers'
    return [Change(where, None, f'{len(report.adapted)} adapted')] + [
        Change(where, None, f'{len(names)} left out', f'{names[0]}: {reason}')
        for reason, names in reasons.items()
    ]


def _plain(value: Any) -> Any:
    """Return copies of plain dicts and lists."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_plain(item) for item in value)
    return value
