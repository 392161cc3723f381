"""A resumed optimizer: its state is kept, the config's settings hold."""

import logging
from collections.abc import Mapping
from typing import Any

from mmengine.logging import print_log
from mmengine.optim import OptimWrapper

_NO_SETTINGS = ('params', 'param_names', 'name')


def fit_groups(checkpoint: dict[str, Any], wrapper: OptimWrapper) -> None:
    """Fit the optimizer and schedulers of a checkpoint to the config's groups.

    PyTorch would refuse groups that are split differently, and would silently
    use the checkpoint's learning rates and weight decays.  Here each parameter
    keeps its state, and schedules continue with the values of the config; the
    log says what changed.

    Args:
        checkpoint: The checkpoint, which is changed.
        wrapper: The optimizer wrapper that the config built, with its
            schedulers.

    Raises:
        ValueError: If the groups differ, and the checkpoint names no
            parameters by which they could be told apart.
    """
    saved = checkpoint['optimizer']
    groups = wrapper.optimizer.param_groups
    if not all('param_names' in group for group in groups):
        return  # another constructor's: PyTorch compares them
    named = _name(saved['param_groups'], groups)
    before = {
        name: (number, group)
        for group in named
        for name, number in zip(
            group['param_names'], group['params'], strict=True
        )
    }
    fitted, state, changes = [], {}, []
    count = 0
    for group in groups:
        names = group['param_names']
        known = [before[name][1] for name in names if name in before]
        for old in {id(old): old for old in known}.values():
            changes += _changes(group, old)
        old = known[0] if known else named[0]
        numbers = list(range(count, count + len(names)))
        count += len(names)
        fitted.append(_progressed(group, old) | dict(params=numbers))
        for name, number in zip(names, numbers, strict=True):
            if name in before and before[name][0] in saved['state']:
                state[number] = saved['state'][before[name][0]]
    fresh = [n for g in groups for n in g['param_names'] if n not in before]
    gone = set(before).difference(*(group['param_names'] for group in groups))
    for names, what in ((fresh, 'start to train'), (gone, 'train no more')):
        if names:
            changes.append(f'{len(names)} parameters {what}')
    if not changes and len(named) == len(groups):
        return
    saved['param_groups'], saved['state'] = fitted, state
    base = wrapper.base_param_settings
    saved.pop('base_param_settings', None)
    if base is not None:
        saved['base_param_settings'] = _progressed(base, named[0])
        fitted = [*fitted, saved['base_param_settings']]
    schedulers = checkpoint.get('param_schedulers', ())
    for scheduler in schedulers:
        key = scheduler['param_name']
        scheduler['base_values'] = [g[f'initial_{key}'] for g in fitted]
        scheduler['_last_value'] = [g[key] for g in fitted]
    print_log(
        "Resumed with the config's settings where the checkpoint has others: "
        f'{"; ".join(dict.fromkeys(changes))}.',
        logger='current',
        level=logging.WARNING,
    )


def _name(saved: list[dict], groups: list[dict]) -> list[dict[str, Any]]:
    """Return the checkpoint's groups with the names of their parameters."""
    if all('param_names' in group for group in saved):
        return saved
    if _outline(saved, settings=False) != _outline(groups, settings=False):
        raise ValueError(
            "The checkpoint's optimizer has other groups than the config "
            'makes, and names no parameters, as mmflora wrote it before it '
            'kept names. The checkpoint has\n'
            f'{_outline(saved)}\nand the config makes\n{_outline(groups)}\n'
            'Restore the `paramwise_cfg` that it was trained with. Weight '
            'decay now leaves scales, magnitudes and tuned biases alone; '
            "custom_keys={'adapter.scale': dict(decay_mult=1.0)} decays them "
            'as before. Or start a new training from its weights: set '
            '`load_from`, without --resume.'
        )
    return [
        old | dict(param_names=new['param_names'])
        for old, new in zip(saved, groups, strict=True)
    ]


def _outline(groups: list[dict], settings: bool = True) -> str:
    lines = []
    for group in groups:
        line = f'  {group.get("name")}: {len(group["params"])} parameters'
        if settings:
            rate = group.get('initial_lr', group.get('lr'))
            line += f', lr={rate}, weight_decay={group.get("weight_decay")}'
        lines.append(line)
    return '\n'.join(lines)


def _settings(group: Mapping[str, Any]) -> dict[str, Any]:
    """Return a group's settings, those on a schedule at their first value."""
    return {
        key: group.get(f'initial_{key}', value)
        for key, value in group.items()
        if key not in _NO_SETTINGS and not key.startswith('initial_')
    }


def _changes(group: Mapping[str, Any], old: Mapping[str, Any]) -> list[str]:
    ours, theirs = _settings(group), _settings(old)
    return [
        f'{group["name"]}: {key}={value!r} instead of {theirs[key]!r}'
        for key, value in ours.items()
        if key in theirs and theirs[key] != value
    ]


def _progressed(
    group: Mapping[str, Any], old: Mapping[str, Any]
) -> dict[str, Any]:
    """Return a group's settings, as far on their schedules as another's."""
    settings = dict(group)
    for key in group:
        first = f'initial_{key}'
        if first not in group or first not in old:
            continue
        settings[key] = old[key]
        if group[first] != old[first]:
            share = old[key] / old[first] if old[first] else 1.0
            settings[key] = group[first] * share
    return settings
