"""What a study would run, before it does."""

from collections.abc import Sequence

from mmflora.count.parameters import build_on_meta, count_model

from .run_plan import StudyPlan


def dry_run(plan: StudyPlan, patterns: Sequence[str] = ()) -> str:
    """Return what each method trains, and what is missing.

    Args:
        plan: The runs of the study.
        patterns: Those runs alone that these ask for.

    Raises:
        ValueError: If they ask for none.
    """
    lines = plan.lines()
    total = sum(plan.totals(patterns).values())
    texts = ['parameters in the backbone:']
    for task, method in plan.pairs(patterns):
        model = build_on_meta(plan.configs.method(task, method))
        count = count_model(model).method
        texts.append(f'  {task.name}/{method.name}: {count:,}')
    runs = plan.runs(lines, patterns)
    missing = [run for run in runs if plan.key(run) not in lines]
    texts.append(
        f'{len(lines)} runs are there; of {total} in all, these '
        f'{len(missing)} can start:'
    )
    return '\n'.join([*texts, *(f'  {run}' for run in missing)])
