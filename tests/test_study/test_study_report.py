"""The report, of made lines: what is compared, refused, written."""

import csv
import re
import shutil
import subprocess
from html.parser import HTMLParser

import pytest

from mmflora.files.json_lines import append_line
from mmflora.study.result_plots import pareto_front
from mmflora.study.result_tables import lr_table, metric_table
from mmflora.study.study_file import read_study
from mmflora.study.study_report import write_report
from mmflora.study.study_results import read_results

from .conftest import STUDY, example_line, write_study

METRICS = {
    ('pixels', 'lora'): [50, 51, 53],
    ('pixels', 'flora'): [54, 54.5, 58],
    ('pixels', 'frozen'): [40, 42, 41],
    ('boxes', 'lora'): [0.31, 0.32, 0.30],
    ('boxes', 'flora'): [0.33, 0.35, 0.31],
    ('boxes', 'frozen'): [0.22, 0.20, 0.21],
}
COUNTS = dict(lora=200_000, flora=180_000, frozen=0)


@pytest.fixture
def study_of(tmp_path):
    """Return a way to make a study with lines in its log."""

    def study(lines=None, **changes):
        (task,) = STUDY['tasks']
        names = [('pixels', 'mIoU'), ('boxes', 'coco/bbox_mAP')]
        path = write_study(
            tmp_path / 'cells.py',
            **{
                'tasks': [dict(task, name=n, metric=m) for n, m in names],
                'methods': [dict(name=name, method='ssf') for name in COUNTS],
                'seeds': [0, 1, 2],
                'lrs': [0.001],
                **changes,
            },
        )
        study = read_study(path, work_dir=str(tmp_path / 'work'))
        for line in made_lines() if lines is None else lines:
            append_line(study.work_dir / 'runs.jsonl', line)
        return study

    return study


def made_lines():
    lines = []
    for (task, method), values in METRICS.items():
        metric = 'mIoU' if task == 'pixels' else 'coco/bbox_mAP'
        for seed, value in enumerate(values):
            count = dict(method=COUNTS[method], new=10, neck=0, heads=5000)
            lines.append(
                example_line(
                    task,
                    method,
                    seed,
                    metrics={metric: value},
                    parameters=count,
                    first_batches=f'{task}-{seed}',
                    seconds_per_step=0.2 + seed / 10 + COUNTS[method] / 1e6,
                )
            )
    return lines


class Page(HTMLParser):
    """What is in a page: tables with their cells, sources, open tags."""

    EMPTY = ('meta', 'img', 'br', 'link')

    def __init__(self, text):
        super().__init__()
        self.tables, self.sources, self.open = {}, [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.sources += [attrs[key] for key in ('src', 'href') if key in attrs]
        if tag == 'table':
            self.rows = self.tables[attrs['id']] = []
        elif tag == 'tr':
            self.rows.append([])
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if {'td', 'th'} & {*self.open}:
            self.rows[-1].append(data)


def test_the_paper_s_table(study_of):
    table = metric_table(read_results(study_of()))
    assert table.header == [
        *('method', 'parameters', 'all trained', 'pixels (mIoU ↑)'),
        *('boxes (coco/bbox_mAP ↑)', 'mean'),
    ]
    texts = {
        row[0].text: [cell.text for cell in row[1:]] for row in table.rows
    }
    # Mean and sample standard deviation; boxes in per cent; per seed the
    # means of the tasks are 43.5, 44.75 and 44.5.
    assert texts['flora'] == [
        *('0.180 M', '0.185 M', '55.50 ± 2.18', '33.00 ± 2.00'),
        '44.25 ± 0.66',
    ]
    best = {row[0].text for row in table.rows if row[3].best}
    assert best == {'flora'}


def test_what_is_written(study_of, tmp_path):
    study = study_of(baselines=['lora', 'frozen'])
    paths = write_report(study, tmp_path / 'out')
    assert sorted(path.suffix for path in paths) == sorted(
        ['.csv'] * 5 + ['.png'] * 3 + ['.md', '.html']
    )
    text = (tmp_path / 'out/report.html').read_text()
    page = Page(text)
    assert page.open == []
    assert {*page.tables} == {
        *('metrics', 'comparisons', 'cost', 'learning_rates', 'runs')
    }
    # It needs no other file and no network.
    assert len(page.sources) == 3
    assert all(source.startswith('data:image/') for source in page.sources)
    assert 'http' not in text.split('<body>')[0]

    beside = {
        (task, method): reference
        for task, method, reference, *_ in page.tables['comparisons'][1:]
    }
    assert beside['pixels', 'flora'] == 'lora'
    assert beside['pixels', 'lora'] == 'frozen'
    assert ('mean', 'flora') in beside
    assert len(page.tables['runs']) == 1 + 18

    with open(tmp_path / 'out/cost.csv', newline='') as file:
        rows = {row['method']: row for row in csv.DictReader(file)}
    # The median of the seeds.
    assert float(rows['lora']['pixels: s/step']) == pytest.approx(0.5)
    markdown = (tmp_path / 'out/report.md').read_text()
    assert '**55.50 ± 2.18**' in markdown
    for name in re.findall(r'!\[.*\]\((.*)\)', markdown):
        assert (tmp_path / 'out' / name).is_file()


def test_all_pairs(study_of, tmp_path):
    write_report(study_of(), tmp_path, all_pairs=True)
    rows = Page((tmp_path / 'report.html').read_text()).tables['comparisons']
    # Three pairs of three methods, for two tasks and their mean.
    assert len(rows) == 1 + 9


def test_kept_runs_are_said(study_of, tmp_path):
    lines = made_lines()
    for line in lines[:2]:
        line['kept'] = 'other settings: log_level'
    write_report(study_of(lines), tmp_path / 'out')
    said = (
        'Kept with --keep-changed: 2 runs were done with other settings: '
        'log_level.'
    )
    for name in ('report.md', 'report.html'):
        assert said in (tmp_path / 'out' / name).read_text(), name


def test_other_numbers_of_parameters_are_said(study_of, tmp_path):
    """Where the data is missing, nothing else tells settings apart."""
    lines = made_lines()
    lines[1]['parameters'] = dict(lines[1]['parameters'], method=300_000)
    study = study_of(lines)
    table = metric_table(read_results(study))
    assert table.rows[[*COUNTS].index('lora')][1].text == '0.200 – 0.300 M'
    write_report(study, tmp_path)
    text = (tmp_path / 'report.md').read_text()
    assert 'seeds of pixels/lora train different numbers' in text
    assert '200,000 to 300,000' in text
    assert 'seeds of boxes/lora' not in text


def test_other_processors_are_said(study_of, tmp_path):
    lines = made_lines()
    for line in lines[:3]:
        line['machine'] = dict(line['machine'], instructions='AVX512')
    write_report(study_of(lines), tmp_path / 'out')
    text = (tmp_path / 'out/report.md').read_text()
    assert (
        'Runs of pixels were done on different processors: 3 on one, AVX512; '
        '6 on one.'
    ) in text
    assert 'Runs of boxes' not in text


def test_missing_and_failed_runs_are_said(study_of, tmp_path):
    lines = made_lines()
    lines[3] = dict(lines[3], status='failed', reason='out of <memory>')
    lines[4]['metrics'] = dict(mIoU=None)
    study = study_of(lines)
    table = metric_table(read_results(study))
    assert table.rows[[*COUNTS].index('flora')][3].text == '58.00 (1 of 3)'
    write_report(study, tmp_path)
    for name in ('report.html', 'report.md'):
        text = (tmp_path / name).read_text()
        assert '16 of 18 runs' in text
        assert re.search('pixels/flora/0 .*out of .*memory', text)
        assert re.search('pixels/flora/1 .*no number', text)
    assert '<memory>' not in (tmp_path / 'report.html').read_text()


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (dict(first_values={'decode_head': 'x'}), 'first_values of decode_h'),
        (dict(first_batches='x'), 'seed 0: first_batches differs'),
        (dict(versions={'torch': '3'}), 'versions differs'),
        (dict(steps=5), 'steps differs'),
        (dict(task_config='x'), 'task_config differs'),
    ],
)
def test_unequal_runs_are_refused(study_of, change, message):
    lines = made_lines()
    lines[0].update(change)
    with pytest.raises(ValueError, match='no fair comparison') as error:
        read_results(study_of(lines))
    assert message in str(error.value)
    assert 'lora/0' in str(error.value)


def test_kept_runs_may_have_other_versions(study_of, tmp_path):
    lines = made_lines()
    lines[0].update(versions={'torch': '1'}, kept='torch 1, now 2')
    write_report(study_of(lines), tmp_path)
    text = (tmp_path / 'report.md').read_text()
    assert '1 runs were done with torch 1, now 2.' in text
    assert 'Versions: torch 2.' in text


def test_a_part_without_new_parameters_is_no_difference(study_of):
    lines = made_lines()
    lines[0]['first_values'] = {'neck': 'n'}
    assert read_results(study_of(lines)).cells


def test_nothing_finished_is_an_error(study_of):
    with pytest.raises(ValueError, match='no finished run'):
        read_results(study_of([]))


def test_the_rate_is_chosen_on_the_validation_split(study_of):
    lines = []
    for lr, validation, test in ((0.001, 30, 90), (0.004, 40, 10)):
        for stage, value in (('search', validation), ('final', test)):
            for task, metric in (('pixels', 'mIoU'), ('boxes', 'x')):
                lines.append(
                    example_line(
                        *(task, 'lora', 0),
                        lr=lr,
                        stage=stage,
                        metrics={metric: value, 'coco/bbox_mAP': value},
                    )
                )
    study = study_of(lines, lrs=[0.001, 0.004])
    results = read_results(study)
    assert results.chosen['pixels', 'lora'] == 0.004
    assert results.metric(study.tasks['pixels'])['lora'] == {0: 10}


def test_a_row_of_rates_without_a_number_has_the_scale_of_its_task(study_of):
    lines = []
    for lr, values in ((0.001, (0.48, 0.44)), (0.004, (None, 0.46))):
        for method, value in zip(('lora', 'flora'), values, strict=True):
            for stage in ('search', 'final'):
                line = example_line('pixels', method, 0, lr=lr, stage=stage)
                lines.append(dict(line, metrics=dict(mIoU=value)))
    study = study_of(lines, lrs=[0.001, 0.004], seeds=[0])
    rows = {r[1].text: r for r in lr_table(read_results(study)).rows}
    texts = {name: [cell.text for cell in rows[name][2:4]] for name in rows}
    assert texts['lora'] == ['48.00', 'no number']
    assert texts['flora'] == ['44.00', '46.00']


def test_an_error_is_no_fraction_of_a_score(study_of):
    (task,) = STUDY['tasks']
    tasks = [dict(task, metric='rmse', higher_is_better=False)]
    lines = [
        example_line('pixels', 'lora', seed, metrics=dict(rmse=0.35))
        for seed in range(3)
    ]
    results = read_results(study_of(lines, tasks=tasks))
    assert metric_table(results).rows[0][3].text == '0.35 ± 0.00'


def test_a_tested_task_has_the_rate_of_its_training(study_of):
    (task,) = STUDY['tasks']
    other = dict(task, name='others', metric='mAcc', trained_as='pixels')
    lines = []
    for lr, validation, test in ((0.001, 30, 90), (0.004, 40, 10)):
        metrics = [dict(mIoU=validation), dict(mIoU=test), dict(mAcc=test + 1)]
        places = ('pixels', 'search'), ('pixels', 'final'), ('others', 'final')
        for (name, stage), metric in zip(places, metrics, strict=True):
            line = example_line(name, 'lora', 0, lr=lr, stage=stage)
            lines.append(dict(line, metrics=metric))
    tasks = [task, other]
    study = study_of(lines, lrs=[0.001, 0.004], seeds=[0], tasks=tasks)
    results = read_results(study)
    assert results.metric(study.tasks['others'])['lora'] == {0: 11}
    (row,) = [r for r in lr_table(results).rows if r[1].text == 'lora']
    assert (row[0].text, row[-1].value) == ('pixels', 0.004)


def test_tasks_with_grids_of_their_own(study_of):
    (task,) = STUDY['tasks']
    tasks = [
        dict(task, name='pixels'),
        dict(task, name='night', lrs=[0.001, 0.004]),
    ]
    values = [
        ('pixels', 0.001, 51),
        ('night', 0.001, 30),
        ('night', 0.004, 33),
    ]
    lines = [
        example_line(
            name, 'lora', 0, lr=lr, stage=stage, metrics=dict(mIoU=value)
        )
        for name, lr, value in values
        for stage in ('search', 'final')
    ]
    results = read_results(study_of(lines, tasks=tasks, seeds=[0]))
    assert results.chosen['pixels', 'lora'] == 0.001
    assert results.chosen['night', 'lora'] == 0.004
    table = lr_table(results)
    assert table.header == ['task', 'method', '0.001', '0.004', 'chosen']
    rows = {row[0].text: row for row in table.rows if row[1].text == 'lora'}
    # One rate alone has no end.
    assert [cell.text for cell in rows['pixels'][3:]] == ['–', '0.001']
    assert rows['night'][-1].text == '0.004 (end of the grid)'


def test_a_task_that_has_not_begun_is_left_out(study_of, tmp_path):
    (task,) = STUDY['tasks']
    tasks = [dict(task, name=name) for name in ('pixels', 'night')]
    lines = [line for line in made_lines() if line['task'] == 'pixels']
    study = study_of(lines, tasks=tasks)
    table = metric_table(read_results(study))
    assert table.header[3:] == ['pixels (mIoU ↑)']
    write_report(study, tmp_path / 'out')
    text = (tmp_path / 'out/report.md').read_text()
    assert 'without a finished run: night.' in text
    assert 'Not finished' not in text


def test_a_report_of_some_cells(study_of, tmp_path):
    study = study_of()
    write_report(study, tmp_path, only=['pixels/*/[01]'])
    text = (tmp_path / 'report.md').read_text()
    assert 'Of the study, only pixels/*/[01].' in text
    assert 'boxes' not in text
    assert 'Not finished' not in text
    results = read_results(study, ['pixels/*/[01]'])
    assert {*results.cells} == {('pixels', name) for name in COUNTS}
    assert {tuple(cell) for cell in results.cells.values()} == {(0, 1)}
    study = study_of(baselines=['flora', 'frozen'])
    results = read_results(study, ['*/lora/*', '*/frozen/*'])
    assert [*results.study.methods] == ['lora', 'frozen']
    assert results.study.baselines == ('frozen',)
    with pytest.raises(ValueError, match=r'no finished run .* of night/\*'):
        read_results(study, ['night/*'])


def test_lower_is_better(study_of):
    (task,) = STUDY['tasks']
    tasks = [dict(task, higher_is_better=False)]
    lines = [line for line in made_lines() if line['task'] == 'pixels']
    table = metric_table(read_results(study_of(lines, tasks=tasks)))
    assert 'mIoU ↓' in table.header[3]
    assert [row[0].text for row in table.rows if row[3].best] == ['frozen']


def test_pareto_front():
    points = dict(a=(1, 5), b=(2, 4), c=(2, 7), d=(3, 7), e=(4, 9))
    assert pareto_front(points, True) == ['a', 'c', 'e']
    assert pareto_front(points, False) == ['a', 'b']


@pytest.mark.slow
def test_a_browser_sorts_the_table(study_of, tmp_path):
    browser = shutil.which('chromium') or shutil.which('google-chrome')
    if browser is None:
        pytest.skip('no Chromium')
    write_report(study_of(), tmp_path)
    page = tmp_path / 'report.html'
    click = (
        "<script>document.querySelectorAll('#metrics th button')[3].click();"
        '</script></body>'
    )
    page.write_text(page.read_text().replace('</body>', click))
    text = subprocess.run(
        [browser, '--headless', '--no-sandbox', '--dump-dom', page.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
    ).stdout
    rows = Page(text).tables['metrics'][1:]
    assert [row[0] for row in rows] == ['frozen', 'lora', 'flora']
