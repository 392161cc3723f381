"""One cell of a study's tables, run once more."""

import time
from dataclasses import replace
from typing import Any

from mmflora.files.json_lines import read_lines

from .run_plan import StudyPlan
from .run_process import RunProcess, hold
from .study_entries import known_name
from .study_runs import LOG, Run


def repeat_run(plan: StudyPlan, cell: str) -> str:
    """Repeat a finished run in a new folder, and compare its metrics.

    Args:
        plan: The runs of the study.
        cell: ``task/method/seed``.

    Returns:
        What the first run gave and what this one gives.

    Raises:
        ValueError: If there is no such run, or it fails.
    """
    old = find_line(plan, cell)
    study = plan.study
    run = Run(
        study.tasks[old['task']],
        study.methods[old['method']],
        old['lr'],
        old['seed'],
        'final',
    )
    root = study.work_dir / 'repeated' / time.strftime('%Y%m%d-%H%M%S')
    lock = hold(plan.folder(run, root))
    if lock is None:
        raise ValueError(f"Another process repeats {run} in '{root}'.")
    folder = plan.prepare(run, root)
    alone = replace(study.resources, processes=1)
    process = RunProcess(run, folder, lock, 0, alone)
    try:
        process.process.wait()
    finally:
        process.end()
    lines = read_lines(root.resolve() / LOG)
    if not lines:
        raise ValueError(
            f'{run} failed: {process.reason()} (its log: {process.log})'
        )
    return _compared(run, old, lines[-1])


def find_line(plan: StudyPlan, cell: str) -> dict[str, Any]:
    """Return the line of a finished run on the test split.

    Of several it is that of the study with its settings of now, with the
    learning rate that is chosen; else the last one.

    Raises:
        ValueError: If the study has no such cell, or it is not finished.
    """
    parts = cell.split('/')
    if len(parts) != 3:
        raise ValueError(
            f"--repeat: '{cell}' is no cell. Give TASK/METHOD/SEED."
        )
    task, method, seed = parts
    known_name(task, plan.study.tasks, '--repeat: the task')
    known_name(method, plan.study.methods, '--repeat: the method')
    found = [
        line
        for line in read_lines(plan.log)
        if (line['task'], line['method'], str(line['seed'])) == (*parts,)
        and (line['stage'], line['status']) == ('final', 'finished')
    ]
    if not found:
        raise ValueError(
            f"--repeat: '{cell}' has no finished run in '{plan.log}'."
        )
    chosen = plan.chosen_lr(
        plan.study.tasks[task], plan.study.methods[method], plan.lines()
    )
    current = [line for line in found if plan.is_current(line)]
    rated = [line for line in current if line['lr'] == chosen]
    return (rated or current or found)[-1]


def _compared(run: Run, old: dict[str, Any], new: dict[str, Any]) -> str:
    names = sorted({*old['metrics'], *new['metrics']})
    width = max(map(len, names))
    rows = [f'{run}, then and now:']
    for name in names:
        then, now = old['metrics'].get(name), new['metrics'].get(name)
        same = 'same' if then == now else 'DIFFERENT'
        rows.append(f'  {name:<{width}}  {then}  {now}  {same}')
    for what in ('config', 'versions', 'first_values', 'first_batches'):
        if old[what] != new[what]:
            rows.append(f'  {what} differs: {old[what]}, now {new[what]}')
    if old['machine'] != new['machine']:
        rows.append('  The machine is another one, or used otherwise.')
    return '\n'.join(rows)
