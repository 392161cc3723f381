"""Which lines of a log are those of a study, after its settings changed."""

import pytest

from mmflora.files.json_lines import read_lines
from mmflora.study.current_lines import current_lines
from mmflora.study.repeated_run import find_line
from mmflora.study.run_changes import keep_changed

from .conftest import STUDY, Runner, example_line

(TASK,) = STUDY['tasks']
LONGER = dict(
    TASK, cfg_options={**TASK['cfg_options'], 'train_cfg.max_iters': 6}
)
OTHER = dict(method='bitfit', cfg_options={'log_level': 'WARNING'})


def lines_of(plan):
    """Return the finished final lines that a report takes, and its notes."""
    lines, notes = current_lines(plan.study, read_lines(plan.log))
    return [line for line in lines if line['stage'] == 'final'], notes


def test_a_change_that_was_taken_back(plan_of):
    before = plan_of(methods=['bitfit'])
    Runner(before).run()
    after = plan_of(methods=['bitfit'], tasks=[LONGER])
    Runner(after).run()  # as --accept-changes does
    for plan in (before, after):
        lines, notes = lines_of(plan)
        keys = {plan.key(run) for run in plan.runs(plan.lines())}
        assert {line['key'] for line in lines} < keys
        assert notes == []
        assert len(lines) == 2
        assert find_line(plan, 'pixels/bitfit/1') in lines


def test_a_change_that_not_all_seeds_have(plan_of):
    Runner(plan_of(methods=['bitfit', 'ssf'], lrs=0.004)).run()
    plan = plan_of(methods=[OTHER, 'ssf'], lrs=0.004)
    Runner(plan).run(['*/bitfit/1'])
    lines, notes = lines_of(plan)
    cells = [(line['method'], line['seed']) for line in lines]
    assert cells == [('ssf', 0), ('ssf', 1), ('bitfit', 1)]
    assert notes == []


def test_what_a_change_left_behind_is_said(plan_of):
    Runner(plan_of(methods=['bitfit', 'ssf'], lrs=0.004)).run()
    plan = plan_of(methods=[OTHER, 'ssf'], lrs=0.004)
    lines, (note,) = lines_of(plan)
    assert len(lines) == 4
    assert 'pixels/bitfit: done with other settings or versions' in note
    assert keep_changed(plan) == 2
    lines, notes = lines_of(plan)
    assert len(lines) == 4
    assert notes == []


def test_tests_of_an_older_training_do_not_count(plan_of):
    tests = dict(name='others', trained_as='pixels', test=dict(indices=[3]))
    both = [TASK, dict(TASK, **tests)], [LONGER, dict(LONGER, **tests)]
    before, after = (
        plan_of(tasks=tasks, methods=['bitfit'], lrs=0.004) for tasks in both
    )
    Runner(before).run()
    Runner(after).run(['pixels/*'])
    lines, _ = lines_of(after)
    assert {line['task'] for line in lines} == {'pixels'}


def test_a_report_needs_no_data(plan_of, tmp_path, monkeypatch):
    plan = plan_of()
    monkeypatch.chdir(tmp_path)
    line = example_line('pixels', 'bitfit')
    lines, (note,) = current_lines(plan.study, [line])
    assert lines == [line]
    assert note.startswith('pixels: its settings could not be compared')


@pytest.mark.parametrize('task', ['pixels', 'gone'])
def test_lines_of_other_studies_are_left_out(plan_of, task):
    line = example_line(task, 'lora')
    assert current_lines(plan_of().study, [line]) == ([], [])
