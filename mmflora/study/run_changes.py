"""What has changed in a study since its runs: it is refused, or kept."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mmflora.config.build import read_config
from mmflora.files.json_lines import append_line

from .run_configs import fingerprint
from .run_plan import StudyPlan
from .study_runs import Run

SHOWN = 3
"""So many settings are named."""


def refuse_changes(plan: StudyPlan, patterns: Sequence[str] = ()) -> None:
    """Refuse a study that has changed since some of its runs.

    Args:
        plan: The runs of the study.
        patterns: Look at those alone that these ask for.

    Raises:
        ValueError: If so; names the runs and what has changed.
    """
    changed = [
        f'{run}: {_change(plan, run, line)}'
        for run, line in plan.outdated(plan.lines(), patterns).items()
    ]
    if changed:
        more = f'\n  … {len(changed) - 8} more' * (len(changed) > 8)
        raise ValueError(
            f'{len(changed)} runs in {plan.log} were done otherwise:\n  '
            + '\n  '.join(changed[:8])
            + f'{more}\nUndo the change, give another --work-dir, '
            'repeat these runs with --accept-changes, or, if the change '
            'cannot matter to them, keep them with --keep-changed.'
        )


def keep_changed(
    plan: StudyPlan, patterns: Sequence[str] = (), write: bool = True
) -> int:
    """Take the finished runs of other settings as if they were of these.

    Each gets a new line in the log, which says what has changed.  Its
    versions stay those that it ran with.

    Args:
        plan: The runs of the study.
        patterns: Keep those alone that these ask for.
        write: Write to the log; else the plan supposes that it was done.

    Returns:
        How many were kept.
    """
    kept = 0
    # The chosen rates name more runs.
    while outdated := plan.outdated(plan.lines(), patterns):
        for run, line in outdated.items():
            changes = [line.get('kept'), _change(plan, run, line)]
            note = '; '.join(filter(None, changes))
            line = {**line, **plan.identity(run), 'kept': note}
            if write:
                append_line(plan.log, line)
            else:
                plan.supposed[line['key']] = line
        kept += len(outdated)
    return kept


def _change(plan: StudyPlan, run: Run, line: Mapping[str, Any]) -> str:
    """Return what differs between a run and what it would be now."""
    versions = plan.versions
    known = line.get('versions', versions)
    moved = [
        f'{name} {known.get(name)}, now {versions.get(name)}'
        for name in sorted({*known, *versions})
        if known.get(name) != versions.get(name)
    ]
    if moved:
        return ', '.join(moved)
    old_config = plan.study.work_dir / line['folder'] / 'config.py'
    if not old_config.is_file():
        return 'other settings'
    cfg = plan.configs.run(run.task, run.method, run.lr, run.seed)
    old = dict(_settings(read_config(str(old_config)).to_dict()))
    new = dict(_settings(cfg.to_dict()))
    names = [n for n in sorted({*old, *new}) if old.get(n) != new.get(n)]
    more = f' and {len(names) - SHOWN} more' * (len(names) > SHOWN)
    return f'other settings: {", ".join(names[:SHOWN])}{more}'


def _settings(node: Any, place: str = '') -> Iterator[tuple[str, str]]:
    """Yield the places of a config's values, each with a hash of the value."""
    if isinstance(node, Mapping) and node:
        for key, value in node.items():
            yield from _settings(value, f'{place}.{key}'.lstrip('.'))
    else:
        yield place, fingerprint(node)
