"""The report of a study: Markdown, CSV, plots and one HTML page."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from mmflora.files.atomic import write_figure, write_text

from .html_page import page
from .prediction_pictures import picture_rows
from .report_tables import Table
from .result_plots import draw_pareto, draw_seeds, svg
from .result_tables import (
    comparison_table,
    comparisons,
    cost_table,
    lr_table,
    metric_table,
    processors_of,
    run_table,
)
from .study_file import Study
from .study_results import StudyResults, read_results
from .sweep_curves import draw_sweep, sweep_table, sweeps

PICTURES_NOTE = (
    'Pictures show the first seed. The number below a picture is the score '
    'of the image, the mean over seeds: average precision at an IoU of 0.5, '
    'or the mean IoU over the classes that the truth has. It is a guide to '
    'hard images, not the metric of the task.'
)


def write_report(
    study: Study,
    folder: Path,
    all_pairs: bool = False,
    only: Sequence[str] = (),
) -> list[Path]:
    """Write what came of a study.

    Args:
        study: The study.
        folder: Where to write; it is made if it is not there.
        all_pairs: Compare every pair of methods, not each with the best
            other baseline.
        only: Patterns of the cells, ``task/method/seed``, to report.

    Returns:
        The files.

    Raises:
        ValueError: If nothing is finished, or the runs are no fair
            comparison.
    """
    results = read_results(study, only)
    tables = report_tables(results, all_pairs)
    figures = {
        f'{task.name}: what the metric costs': draw_pareto(results, task)
        for task in results.tasks
        if any(results.metric(task).values())
    }
    for setting in sweeps(results.study):
        for task in results.tasks:
            name = f'{task.name}: metric by {setting}'
            figures[name] = draw_sweep(results, task, setting)
    figures['Every seed'] = draw_seeds(results)
    pictures = {
        task.name: picture_rows(results, task) for task in results.tasks
    }
    title, lead = f'Study {Path(study.path).stem}', _lead(results)
    written = []
    images = {}
    for number, (name, figure) in enumerate(figures.items()):
        path = folder / f'plot_{number}.png'
        write_figure(path, figure, dpi=130)
        images[name] = path
        written.append(path)
    for table in tables:
        path = folder / f'{table.name}.csv'
        write_text(path, table.csv())
        written.append(path)
    missing = _missing(results)
    path = folder / 'report.md'
    write_text(path, _markdown(title, lead, missing, tables, images))
    vectors = {name: svg(figure) for name, figure in figures.items()}
    if any(pictures.values()):
        lead = [*lead, PICTURES_NOTE]
    html = folder / 'report.html'
    write_text(html, page(title, lead, missing, tables, vectors, pictures))
    return [*written, path, html]


def report_tables(
    results: StudyResults, all_pairs: bool = False
) -> list[Table]:
    """Return the tables of a report."""
    return [
        metric_table(results),
        comparison_table(comparisons(results, all_pairs), all_pairs),
        cost_table(results),
        *(sweep_table(results, setting) for setting in sweeps(results.study)),
        lr_table(results),
        run_table(results),
    ]


def _lead(results: StudyResults) -> list[str]:
    study = results.study
    lines = results.lines()
    # Other versions than these are said of the runs that were kept.
    line = min(lines, key=lambda line: 'kept' in line)
    versions = ', '.join(f'{k} {v}' for k, v in line['versions'].items())
    return [
        f'{len(study.methods)} methods, {len(study.tasks)} '
        f'task{"s" * (len(study.tasks) > 1)}, '
        f'{len(study.seeds)} seeds: {len(lines)} runs on test splits. Written '
        f'by `python tools/study.py {study.path} --report DIR`.',
        'All methods of a seed start with the same neck and heads and see '
        'the same images in the same order with the same augmentation; the '
        'hashes of the first values and of the first batches agree. Each '
        'method has the learning rate that did best on the validation split; '
        'the test split was used once, after the last iteration.',
        f'Versions: {versions}.',
    ]


def _missing(results: StudyResults) -> list[str]:
    """Return what is not in the report that the study asks for."""
    wanted, there = results.wanted, len(results.lines())
    found = []
    if results.only:
        found.append(f'Of the study, only {", ".join(results.only)}.')
    if there < wanted:
        found.append(
            f'Not finished: {there} of {wanted} runs are there. Means are '
            'over the seeds that are.'
        )
    if results.not_begun and not results.only:
        found.append(
            f'Left out, without a finished run: {", ".join(results.not_begun)}'
            '.'
        )
    kept = Counter(
        line['kept'] for line in results.lines() if line.get('kept')
    )
    for change, count in kept.items():
        found.append(
            f'Kept with --keep-changed: {count} runs were done with {change}.'
        )
    found += results.notes
    for task in results.tasks:
        found += _different_counts(results, task.name)
        found += _different_processors(results, task.name)
    for line in results.failed:
        found.append(
            f'Failed: {line["task"]}/{line["method"]}/{line["seed"]} with lr '
            f'{line["lr"]:g} ({line["stage"]}): {line["reason"]}'
        )
    return found


def _different_counts(results: StudyResults, task: str) -> list[str]:
    """Say which methods have seeds of different settings, as it seems."""
    return [
        f'The seeds of {task}/{name} train different numbers of parameters in '
        f'the backbone, {min(counts):,} to {max(counts):,}. Some methods draw '
        'them; else their settings have changed between the seeds.'
        for name in results.study.methods
        if len(counts := results.counts_of(task, name, ['method'])) > 1
    ]


def _different_processors(results: StudyResults, task: str) -> list[str]:
    """Say on what the runs of a task were done, if not all on the same."""
    kinds = Counter(
        processors_of(line) for line in results.lines() if line['task'] == task
    )
    if len(kinds) < 2:
        return []
    counts = '; '.join(f'{count} on {kind}' for kind, count in kinds.items())
    return [
        f'Runs of {task} were done on different processors: {counts}. They '
        'round differently, which can change a result as much as another seed.'
    ]


def _markdown(
    title: str,
    lead: list[str],
    missing: list[str],
    tables: list[Table],
    images: dict[str, Path],
) -> str:
    blocks = [f'# {title}', *(f'> {text}' for text in missing), *lead]
    for table in tables:
        blocks += [f'## {table.title}', table.markdown()]
        blocks += [table.note] if table.note else []
    blocks.append('## Plots')
    blocks += [f'![{name}]({path.name})' for name, path in images.items()]
    return '\n\n'.join(blocks) + '\n'
