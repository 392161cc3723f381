"""Imports and hooks that a run with a frozen base needs."""

import inspect
from collections.abc import Iterable
from typing import Any

from mmengine.config import Config
from mmengine.hooks import CheckpointHook

from .changes import Change
from .named_methods import Method

# Hooks of one method each, which fail where there is another.
OF_METHODS = (
    'mmflora.AdaLoRAHook',
    'mmflora.SaRAHook',
    'mmflora.SNELLAHook',
)
HOOK = 'mmflora.AdapterCheckpointHook'
_MORE_HOOKS = {
    'adapter_gradient': 'mmflora.AdapterGradientHook',
    'iteration_seed': 'mmflora.IterationSeedHook',
    'calibration': 'mmflora.CalibrationHook',
    'sampled_rank': 'mmflora.SampledRankHook',
}
_STOCK = ('CheckpointHook', 'mmengine.CheckpointHook')


def use_runtime(cfg: Config, methods: Iterable[Method]) -> list[Change]:
    """Import mmflora, and exchange and add hooks."""
    changes = _imports(cfg)
    hooks: Any = cfg.setdefault('default_hooks', {}) or {}
    cfg['default_hooks'] = hooks
    hooks = cfg['default_hooks']
    changes += _checkpoints(hooks)
    for name, kind in _MORE_HOOKS.items():
        if name not in hooks:
            hooks[name] = dict(type=kind)
            changes.append(Change(f'default_hooks.{name}', None, kind))
    needed = {hook['type']: hook for m in methods for hook in m.hooks}
    given = list(cfg.get('custom_hooks') or ())
    kept = [
        hook
        for hook in given
        if hook.get('type') in needed or hook.get('type') not in OF_METHODS
    ]
    for hook in given:
        if hook not in kept:
            why = 'the method has no use for it'
            changes.append(Change('custom_hooks', hook['type'], None, why))
    present = [hook.get('type') for hook in kept]
    more = [hook for kind, hook in needed.items() if kind not in present]
    for hook in more:
        why = 'the method needs it'
        changes.append(Change('custom_hooks', None, hook['type'], why))
    if more or len(kept) < len(given):
        cfg['custom_hooks'] = [*kept, *more]
    return changes


def _imports(cfg: Config) -> list[Change]:
    imports: Any = cfg.get('custom_imports') or {}
    names = imports.get('imports') or []
    names = [names] if isinstance(names, str) else list(names)
    if 'mmflora' in names:
        return []
    settings = dict(imports, imports=[*names, 'mmflora'])
    settings.setdefault('allow_failed_imports', False)
    cfg['custom_imports'] = settings
    return [Change('custom_imports.imports', None, 'mmflora')]


def _checkpoints(hooks: Any) -> list[Change]:
    """Exchange the checkpoint hook, and keep its settings."""
    place = 'default_hooks.checkpoint'
    why = 'checkpoints hold what trains, and name the base'
    # MMEngine's own default; None means that nothing is saved.
    before = hooks.get('checkpoint', dict(type=_STOCK[0], interval=1))
    if before is None:
        hooks['checkpoint'] = dict(type=HOOK, interval=-1, save_last=False)
        return [Change(place, None, HOOK, 'it checks the base, saves nothing')]
    kind = before.get('type', _STOCK[0])
    name = kind if isinstance(kind, str) else kind.__name__
    if name == HOOK:
        return []
    settings: dict[str, Any] = dict(dict.items(before), type=HOOK)
    changes = [Change(place, name, HOOK, f'{why}; its settings stay')]
    if name not in _STOCK:
        known = {
            'type',
            'priority',
            *inspect.signature(CheckpointHook).parameters,
        }
        for key in [key for key in settings if key not in known]:
            value = settings.pop(key)
            lost = f'a setting of {name}, which {HOOK} replaces'
            changes.append(Change(f'{place}.{key}', value, None, lost))
    hooks['checkpoint'] = settings
    return changes
