"""Whether the runs of a study are a fair comparison."""

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from .study_file import Study

Cells = Mapping[tuple[str, str], Mapping[int, dict[str, Any]]]


def refuse_unequal(study: Study, cells: Cells) -> None:
    """Refuse runs that are no fair comparison.

    Args:
        study: The study.
        cells: The lines of its runs, by task and method, and by seed.

    Raises:
        ValueError: If the methods of a task had other data or steps, or other
            versions without being kept, or those of a seed other first values
            or batches.
    """
    wrong = []
    for task in study.tasks:
        lines = [
            line
            for (name, _), cell in cells.items()
            for line in cell.values()
            if name == task
        ]
        # With kept runs it was said that their versions do not matter.
        own = [line for line in lines if not line.get('kept')]
        wrong += _differences(own, task, 'versions')
        for what in ('task_config', 'steps'):
            wrong += _differences(lines, task, what)
        for seed in study.seeds:
            own = [line for line in lines if line['seed'] == seed]
            where = f'{task}, seed {seed}'
            wrong += _differences(own, where, 'first_batches')
            children = {c for line in own for c in line['first_values']}
            for child in sorted(children):
                wrong += _differences(own, where, 'first_values', child)
    if wrong:
        raise ValueError(
            'These runs are no fair comparison:\n  '
            + '\n  '.join(wrong[:20])
            + '\nRun the study again with --accept-changes, which repeats '
            'what is outdated.'
        )


def _differences(
    lines: list[dict[str, Any]], where: str, what: str, part: str | None = None
) -> list[str]:
    """Return what differs between runs, if something does."""
    groups: dict[str, list[str]] = defaultdict(list)
    for line in lines:
        value = line[what] if part is None else line[what].get(part)
        # A child that a method adapts as a part has no new parameters.
        if value is not None:
            groups[str(value)].append(f'{line["method"]}/{line["seed"]}')
    if len(groups) < 2:
        return []
    name = what if part is None else f'{what} of {part}'
    shown = '; '.join(
        f'{", ".join(cells[:3])}{"…" * (len(cells) > 3)}: {value:.120}'
        for value, cells in groups.items()
    )
    return [f'{where}: {name} differs ({shown})']
