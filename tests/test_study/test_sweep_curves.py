"""Sweeps: which methods are on a curve, and what a report says of them."""

import math
from dataclasses import replace

import pytest
from scipy import stats

from mmflora.files.json_lines import append_line
from mmflora.study.study_file import read_study
from mmflora.study.study_report import write_report
from mmflora.study.study_results import read_results
from mmflora.study.sweep_curves import draw_sweep, sweep_table, sweeps

from .conftest import example_line, write_study

METHODS = [
    'frozen',
    dict(method='flora-r16', name='flora', ranks=[16, 4]),
    dict(method='lora-r8', name='lora', ranks=[4]),
    *(
        dict(method='flora-r16', name=f's{x}', curve='flora', at=dict(scale=x))
        for x in (0.25, 4, 1)
    ),
    # Nothing is done of these.
    *(
        dict(method='dora-r8', name=f'd{x}', curve='dora', at=dict(scale=x))
        for x in (1, 4)
    ),
]
VALUES = {
    'frozen': [40, 41, 42],
    'flora-r4': [43, 44, 46],
    'flora-r16': [44, 44.5, 48],
    's0.25': [41, 42, 46],
    's1': [49, 44, 45],
    's4': [30],
}


@pytest.fixture
def study(tmp_path):
    """A study with lines in its log."""
    path = write_study(
        tmp_path / 'sweep.py',
        methods=METHODS,
        seeds=[0, 1, 2],
        lrs=[0.001],
        baselines=['frozen', 'flora-r4'],
    )
    study = read_study(path, work_dir=str(tmp_path / 'work'))
    for name, values in VALUES.items():
        for seed, value in enumerate(values):
            line = example_line('pixels', name, seed, metrics={'mIoU': value})
            append_line(study.work_dir / 'runs.jsonl', line)
    return study


def test_points_of_a_curve_are_in_order(study):
    assert sweeps(study) == {
        # A single rank of LoRA is no curve.
        'rank': {'flora': {4: 'flora-r4', 16: 'flora-r16'}},
        'scale': {
            'flora': {0.25: 's0.25', 1: 's1', 4: 's4'},
            'dora': {1: 'd1', 4: 'd4'},
        },
    }
    assert [*sweeps(study)['scale']['flora']] == [0.25, 1, 4]


def test_the_table_is_scipy_s(study):
    table = sweep_table(read_results(study), 'scale')
    assert table.header[2] == 'scale'
    rows = {row[2].value: row for row in table.rows}
    best = max((0.25, 1, 4), key=lambda x: sum(VALUES[f's{x}']) / 3)
    assert [row[2].value for row in table.rows if row[3].best] == [best] == [1]
    test = stats.ttest_rel(VALUES['s0.25'], VALUES['s1'])
    assert rows[0.25][4].value == pytest.approx((41 + 42 + 46 - 138) / 3)
    assert rows[0.25][6].value == pytest.approx(test.pvalue)
    assert rows[4][3].text == '30.00 (1 of 3)'
    assert rows[4][4].value == -19
    # One pair has no p value, so the other's is not corrected.
    assert math.isinf(rows[4][6].value)
    assert rows[0.25][7].value == pytest.approx(test.pvalue)


def test_the_curves_that_are_drawn(study):
    results = read_results(study)
    (axes,) = draw_sweep(results, study.tasks['pixels'], 'scale').axes
    assert axes.get_xlabel() == 'scale'
    assert [text.get_text() for text in axes.get_xticklabels()] == [
        *('0.25', '1', '4')
    ]
    assert axes.get_xscale() == 'log'
    (curve,) = axes.containers
    means = [sum(VALUES[f's{x}']) / len(VALUES[f's{x}']) for x in (0.25, 1, 4)]
    assert [*curve.lines[0].get_ydata()] == pytest.approx(means)
    # Of the baselines both are on no curve of scales.
    labels = [*axes.get_legend_handles_labels()[1]]
    assert sorted(labels) == ['flora', 'flora-r4', 'frozen']


def test_without_baselines_all_that_is_on_no_curve_is_drawn(study):
    results = read_results(replace(study, baselines=()))
    (axes,) = draw_sweep(results, study.tasks['pixels'], 'scale').axes
    labels = [*axes.get_legend_handles_labels()[1]]
    assert sorted(labels) == ['flora', 'frozen']


def test_a_report_has_them(study, tmp_path):
    paths = write_report(study, tmp_path / 'out')
    assert {'by_rank.csv', 'by_scale.csv'} < {path.name for path in paths}
    text = (tmp_path / 'out/report.md').read_text()
    for setting in ('rank', 'scale'):
        assert f'## Metric by {setting}' in text
        assert f'![pixels: metric by {setting}]' in text


@pytest.mark.parametrize(
    ('point', 'message'),
    [
        (dict(curve='a'), 'has both'),
        (dict(at=dict(scale=1)), 'has both'),
        (dict(curve='a', at=dict(scale=1, rank=2)), 'has both'),
        (dict(curve='a', at=dict(scale='1')), 'has both'),
        (dict(curve='a', at=3), 'has both'),
        (dict(curve='a', at={'../rank': 3}), 'letters, digits'),
        (dict(curve='flora', at=dict(rank=4)), "place of 'flora-r4'"),
    ],
    ids=str,
)
def test_what_is_no_point(tmp_path, point, message):
    methods = [
        dict(method='flora-r16', name='flora', ranks=[4, 16]),
        dict(method='ssf', **point),
    ]
    path = write_study(tmp_path / 'sweep.py', methods=methods)
    with pytest.raises(ValueError, match=r"method 'ssf'") as error:
        read_study(path)
    assert message in str(error.value)
