"""Any parts of a config's model, frozen over the checkpoint of a whole one.

What of the checkpoint fits which part is found out here, by comparing keys
and shapes, and written into the config.  So what builds the model is strict.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from mmengine.config import Config
from torch import nn

from mmflora.adapters.targets import compile_patterns
from mmflora.checkpoint.base_weights import pretrained_cfg
from mmflora.checkpoint.keys import (
    KeyReport,
    Shapes,
    compare_keys,
    state_shapes,
)
from mmflora.models.peft_model import (
    LISTS,
    check_parts,
    modules_with_weights,
    unknown_part,
)

from ..build import build_model
from ..walk import find_dicts
from .base_fit import check_shares, offered_shapes, patterns_of
from .changes import Change
from .shared_classes import keep_classes

_TYPE = 'mmflora.PEFTModel'


def use_parts(
    cfg: Config,
    parts: Mapping[str, Mapping[str, Any]],
    base: str | Mapping[str, Any] | None = None,
    place: str = 'model',
) -> list[Change]:
    """Make parts of a config's model frozen ones, each with its method.

    Args:
        cfg: The config; it is changed.
        parts: Maps each part to its settings, as
            :class:`mmflora.models.PEFTOptions` takes them.  A part is the
            path of a module of the model, or a regular expression that
            matches whole paths; of what one matches, the outermost modules
            count, and of a list of modules its members.
        base: The checkpoint of a whole model, or its ``init_cfg`` with a
            ``prefix``; by default what ``load_from`` names.
        place: Where the model stands in the config.

    Returns:
        What was changed.

    Raises:
        FileNotFoundError: If the checkpoint is missing.
        TypeError: If settings of a part are none of ``PEFTOptions``.
        ValueError: If a part matches no module, has no weights or lies inside
            another one; if there is no base, or it is one of another model;
            if a method fits no layer of a part.
    """
    source = _source(cfg, base)
    node = _node(cfg, place)
    stock = build_model(cfg, place, weights=False, device='meta')
    chosen = match_parts(stock, parts)
    check_parts(stock, chosen)
    offered = offered_shapes(source)
    expected = state_shapes(stock)
    check_shares(stock, chosen, offered, expected, source)
    report = compare_keys(offered, expected)
    changes = _name_base(cfg, node, place, source)
    changes += _rewrite(node, place, chosen, report, expected)
    changes += keep_classes(cfg, node, place, source, report)
    # What a part's method cannot do shows here, and names the part.
    build_model(cfg, place, weights=False, device='meta')
    return changes


def match_parts(
    model: nn.Module, parts: Mapping[str, Mapping[str, Any]]
) -> dict[str, dict[str, Any]]:
    """Return the settings of each module that patterns choose, by its path.

    Of a list of modules, each member is a part.

    Raises:
        ValueError: If a pattern matches nothing, or is no regular
            expression; the nearest modules are listed.
    """
    known = modules_with_weights(model)
    chosen: dict[str, dict[str, Any]] = {}
    for text, settings in parts.items():
        found = [text]
        if text not in known:
            pattern = compile_patterns(text, 'parts')[text]
            found = [name for name in known if pattern.fullmatch(name)]
        if not found:
            raise ValueError(f'`parts`: {unknown_part(model, text)}')
        for name in found:
            if any(name.startswith(f'{other}.') for other in found):
                continue
            for member in _members(name, known):
                chosen.setdefault(member, dict(settings))
    return chosen


def _members(name: str, known: Mapping[str, nn.Module]) -> Iterator[str]:
    """Yield a module's path, or those of the members of a list."""
    if not isinstance(known[name], LISTS):
        yield name
        return
    for key in known[name]._modules:
        if f'{name}.{key}' in known:
            yield from _members(f'{name}.{key}', known)


def _source(
    cfg: Config, base: str | Mapping[str, Any] | None
) -> dict[str, Any]:
    """Return the ``init_cfg`` of the base.

    Raises:
        ValueError: If there is none.
    """
    base = base or cfg.get('load_from')
    named = base if isinstance(base, Mapping) else dict(checkpoint=str(base))
    source = pretrained_cfg({**named, 'type': 'Pretrained'}) if base else None
    if source is None:
        raise ValueError(
            'Parts of a model need the checkpoint of a whole model as their '
            'base, and none is named. Give one with --base FILE, or set '
            '`load_from` of the config. (The backbone alone, over its own '
            'weights, needs no parts.)'
        )
    return source


def _node(cfg: Config, place: str) -> Any:
    node: Any = cfg
    for key in place.split('.'):
        node = node[key]
    return node


def _name_base(
    cfg: Config, node: Any, place: str, source: Mapping[str, Any]
) -> list[Change]:
    """Let the model start from the base, and from nothing else."""
    changes = []
    for key, module in find_dicts(node, place):
        for name in ('init_cfg', 'pretrained'):
            kept, dropped = _split_weights(name, module.get(name))
            if not dropped:
                continue
            why = 'the base holds these weights'
            changes.append(Change(f'{key}.{name}', dropped, kept, why))
            if kept or name == 'pretrained':
                module[name] = kept
            else:
                del module[name]
    others = node.get('init_cfg') or []
    others = [others] if isinstance(others, Mapping) else list(others)
    node['init_cfg'] = [*others, source] if others else dict(source)
    why = 'the base of every part, and where the rest starts'
    changes.append(
        Change(f'{place}.init_cfg', None, source['checkpoint'], why)
    )
    if cfg.get('load_from') is not None:
        why = 'the model starts from its base'
        changes.append(Change('load_from', cfg.load_from, None, why))
        cfg.load_from = None
    return changes


def _split_weights(name: str, value: Any) -> tuple[Any, Any]:
    """Split what names weights off: what is kept, and what is dropped."""
    if name == 'pretrained':
        return None, value if isinstance(value, str) else None
    entries = [value] if isinstance(value, Mapping) else list(value or [])
    dropped = [e['checkpoint'] for e in entries if pretrained_cfg(e)]
    kept = [entry for entry in entries if not pretrained_cfg(entry)]
    return kept or None, ', '.join(dropped) or None


def _rewrite(
    node: Any,
    place: str,
    parts: dict[str, dict[str, Any]],
    report: KeyReport,
    expected: Shapes,
) -> list[Change]:
    """Turn a model's dict into that of ``mmflora.PEFTModel``."""
    changes = [Change(f'{place}.type', node['type'], _TYPE, 'frozen parts')]
    node['model_type'] = node['type']
    node['type'] = _TYPE
    lacking = [*report.missing, *report.mismatched]
    for part, settings in parts.items():
        where = f'{place}.parts.{part}'
        adapter = settings.get('adapter') or 'no adapter'
        changes.append(Change(where, None, adapter, 'a frozen part'))
        changes += _declare(
            settings, where, f'{part}.', lacking, expected, report
        )
    inside = tuple(f'{part}.' for part in parts)
    outside = [key for key in expected if not key.startswith(inside)]
    changes += _declare(
        node,
        place,
        '',
        [key for key in lacking if not key.startswith(inside)],
        outside,
        report,
        inside,
    )
    node['parts'] = parts
    return changes


def _declare(
    settings: Any,
    where: str,
    prefix: str,
    lacking: Iterable[str],
    expected: Iterable[str],
    report: KeyReport,
    inside: tuple[str, ...] = (),
) -> list[Change]:
    """Declare what is new in a part, and what of the file it does not use."""

    def own(keys: Iterable[str]) -> list[str]:
        return [
            key.removeprefix(prefix)
            for key in keys
            if key.startswith(prefix) and not (inside and _in(key, inside))
        ]

    changes = []
    new = patterns_of(own(lacking), own(expected))
    unused = patterns_of(own(report.unexpected), own(expected))
    for name, patterns, why in (
        ('new_params', new, _why_new(own(lacking), prefix, report)),
        ('unused_keys', unused, 'the file has them, the model has not'),
    ):
        if patterns:
            declared = settings.get(name) or ()
            declared = [declared] if isinstance(declared, str) else declared
            settings[name] = [*declared, *patterns]
            changes.append(Change(f'{where}.{name}', None, patterns, why))
    return changes


def _in(key: str, inside: tuple[str, ...]) -> bool:
    return key.startswith(inside)


def _why_new(keys: list[str], prefix: str, report: KeyReport) -> str:
    other = [key for key in keys if prefix + key in report.mismatched]
    if not other:
        return 'the file lacks them: they start new and train'
    theirs, ours = report.mismatched[prefix + other[0]]
    return (
        f'{len(other)} of another shape in the file ({theirs} there, {ours} '
        f'here), {len(keys) - len(other)} not in it: they start new and train'
    )
