"""The lines of a log that are of a study with its settings of now."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from .run_plan import StudyPlan
from .study_file import Study

Line = dict[str, Any]


def current_lines(
    study: Study, lines: Sequence[Line]
) -> tuple[list[Line], list[str]]:
    """Return the lines that a report of a study is about.

    The log keeps what was done before a change of the study: of a change
    that was taken back, say, or of one that was accepted and whose runs are
    not all repeated yet.  Where a method has lines of the settings of now,
    these alone count.  Where it has none, older ones do: a report is also
    written of a study that has changed since, and where its data is missing.

    Args:
        study: The study.
        lines: The lines of its log, in their order.

    Returns:
        The lines, and what a reader must know of them.
    """
    plan = StudyPlan(study)
    groups: dict[tuple[str, str], list[Line]] = defaultdict(list)
    for line in lines:
        if line['task'] in study.tasks and line['method'] in study.methods:
            # A test is of a training, and outdated with it.
            task = study.training_of(study.tasks[line['task']])
            groups[task.name, line['method']].append(line)
    taken: set[int] = set()
    outdated: list[str] = []
    unknown: dict[str, str] = {}
    for (name, method), group in groups.items():
        current: list[Line] = []
        if name not in unknown:
            try:
                current = [line for line in group if plan.is_current(line)]
            except (ImportError, OSError, TypeError, ValueError) as error:
                unknown[name] = ' '.join(str(error).split())[:300]
        if not current and name not in unknown:
            outdated.append(f'{name}/{method}')
        taken |= {id(line) for line in current or group}
    notes = [
        f'{name}: its settings could not be compared with those of its runs. '
        f'{reason}'
        for name, reason in unknown.items()
    ]
    if outdated:
        notes.append(
            f'{", ".join(outdated)}: done with other settings or versions '
            'than the study has now.'
        )
    return [line for line in lines if id(line) in taken], notes
