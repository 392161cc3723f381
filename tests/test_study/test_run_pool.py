"""Which runs are done, how, and what a kill leaves.

Stubs stand in for the runs; `test_smoke_study.py` does real ones.
"""

import json
import multiprocessing
import os
import signal
import threading
import time
from functools import partial

import pytest
from filelock import FileLock

from mmflora.config.build import read_config
from mmflora.files.json_lines import read_lines
from mmflora.study.dry_run import dry_run
from mmflora.study.repeated_run import find_line, repeat_run
from mmflora.study.run_changes import keep_changed, refuse_changes
from mmflora.study.run_process import LOCK, RunProcess, cpu_groups, hold
from mmflora.study.study_file import Resources

from .conftest import STUDY, Runner


def finished(plan):
    return [run for run in read_lines(plan.log) if run['status'] == 'finished']


def test_searches_first_then_the_best_rate(plan_of):
    plan = plan_of()
    runner = Runner(plan)
    assert runner.run() == 0
    runs = finished(plan)
    stages = [run['stage'] for run in runs]
    assert stages == ['search'] * 4 + ['final'] * 4
    assert {r['lr'] for r in runs if r['stage'] == 'final'} == {0.004}
    assert {r['seed'] for r in runs if r['stage'] == 'search'} == {0}
    assert len(runner.said) == sum(plan.totals().values()) == 8
    assert (
        '[8/8] pixels/bitfit/1 lr 0.004 (final): mIoU 1.1' in (runner.said[-1])
    )
    assert 'left' in runner.said[0]
    assert 'left' not in runner.said[-1]

    again = Runner(plan_of(), fail='')  # would fail, if it ran anything
    assert again.run() == 0
    assert again.said == []


def test_more_seeds_add_runs_and_repeat_none(plan_of):
    plan = plan_of(lrs=[0.004])
    Runner(plan).run()
    more = Runner(plan_of(lrs=[0.004], seeds=[0, 1, 2]))
    refuse_changes(more.plan)
    more.run()
    assert len(more.said) == 2
    assert {run['seed'] for run in finished(plan)} == {0, 1, 2}


def test_two_at_once_on_processors_of_their_own(plan_of):
    cpus = sorted(os.sched_getaffinity(0))
    resources = dict(processes=2, gpus=[5, 6], pin=len(cpus) > 1)
    plan = plan_of(lrs=0.004, resources=resources)
    Runner(plan, seconds=1).run()
    spans = sorted(run['span'] for run in finished(plan))
    assert any(b[0] < a[1] for a, b in zip(spans, spans[1:], strict=False))
    runs = finished(plan)
    assert {run['gpus'] for run in runs} == {'5', '6'}
    assert {run['threads'] for run in runs} == {'1'}
    if len(cpus) > 1:
        assert {tuple(r['cpus']) for r in runs} == {(c,) for c in cpus[:2]}


def test_groups_of_processors():
    resources = Resources(processes=2, threads=2, cpus=[4, 5, 6, 7, 8])
    assert cpu_groups(resources) == [[4, 5], [6, 7]]
    assert cpu_groups(Resources(processes=2, pin=False)) == [None, None]


def test_too_few_processors_refuse_runs_and_no_report(plan_of):
    runner = Runner(plan_of(resources=dict(processes=10**6)))
    with pytest.raises(ValueError, match=r'1000000 × 1 .* set pin=False'):
        runner.run()
    assert not runner.plan.log.exists()


def test_a_failed_run_is_noted_and_only_retried_on_demand(plan_of):
    plan = plan_of(lrs=0.004)
    runner = Runner(plan, fail='bitfit/1')
    assert runner.run() == 1
    (line,) = [r for r in read_lines(plan.log) if r['status'] == 'failed']
    assert line['reason'] == 'exit status 3: RuntimeError: out of luck'
    assert os.path.isfile(line['log'])
    assert 'FAILED' in '\n'.join(runner.said)

    again = Runner(plan)
    assert again.run() == 1
    assert again.said == []
    assert again.run(retry=True) == 0
    assert len(finished(plan)) == 4


def test_a_failed_search_holds_back_its_method_alone(plan_of):
    plan = plan_of()
    assert Runner(plan, fail='bitfit/0 search 0.001').run() == 1
    final = [run for run in finished(plan) if run['stage'] == 'final']
    assert {run['method'] for run in final} == {'flora-r16'}


def test_a_killed_study_goes_on(plan_of):
    plan = plan_of(lrs=0.004)
    folder = plan.log.parent

    def kill():
        while not [p for p in folder.rglob('bitfit/*/pid') if p.read_text()]:
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGTERM)

    killer = threading.Thread(target=kill)
    killer.start()
    with pytest.raises(KeyboardInterrupt):
        Runner(plan, hang='bitfit/0').run()
    killer.join()
    assert len(finished(plan)) == 1
    (file,) = folder.rglob('bitfit/*/pid')
    pid = int(file.read_text())
    assert not os.path.exists(f'/proc/{pid}'), 'its run goes on'
    runner = Runner(plan)
    assert runner.run() == 0
    assert len(runner.said) == 3


def test_a_run_that_outlived_its_study_is_waited_for(plan_of):
    plan = plan_of(lrs=0.004, seeds=0, methods=['bitfit'])
    (run,) = plan.runs({})
    lock = FileLock(plan.prepare(run) / LOCK, thread_local=False)
    lock.acquire()
    began = time.monotonic()
    threading.Timer(1, lock.release).start()
    assert Runner(plan).run() == 0
    assert time.monotonic() - began > 1


def test_only_some_cells(plan_of):
    plan = plan_of(lrs=0.004)
    Runner(plan).run(['pixels/*/1', 'pixels/bitfit/0'])
    cells = {(run['method'], run['seed']) for run in finished(plan)}
    assert cells == {('flora-r16', 1), ('bitfit', 1), ('bitfit', 0)}


def test_a_cell_asks_for_the_search_that_it_needs(plan_of):
    plan = plan_of()
    assert Runner(plan).run(['pixels/bitfit/1']) == 0
    runs = [(r['method'], r['seed'], r['stage']) for r in finished(plan)]
    assert runs == [('bitfit', 0, 'search')] * 2 + [('bitfit', 1, 'final')]


def test_a_cell_asks_for_the_training_that_it_tests(plan_of):
    plan = plan_of(tasks=tasks_of_one_training())
    runner = Runner(plan)
    assert runner.run(['others/bitfit/1']) == 0
    runs = [(r['task'], r['seed'], r['stage']) for r in finished(plan)]
    assert runs == [
        *[('pixels', 0, 'search')] * 2,
        *[('pixels', 1, 'final'), ('others', 1, 'final')],
    ]
    assert '[4/4]' in runner.said[-1]


def test_no_such_cell(plan_of):
    with pytest.raises(ValueError, match=r'no cell .* pixels/lora/\*'):
        Runner(plan_of()).run(['pixels/lora/*'])
    with pytest.raises(ValueError, match=r'no cell .* pixels/lora/\*'):
        dry_run(plan_of(), ['pixels/lora/*'])


def test_progress_counts_what_was_asked_for(plan_of):
    runner = Runner(plan_of())
    runner.run(['pixels/bitfit/0'])
    places = [text.split(' pixels')[0] for text in runner.said]
    assert places == ['[1/3]', '[2/3]', '[3/3]']
    assert 'left' in runner.said[0]
    assert 'left' not in runner.said[-1]


def test_a_task_with_learning_rates_of_its_own(plan_of):
    (task,) = STUDY['tasks']
    other = dict(
        task,
        name='others',
        cfg_options={**task['cfg_options'], 'train_cfg.max_iters': 6},
        lrs=[0.002, 0.004, 0.008],
    )
    tasks = [task, other]
    plan = plan_of(tasks=tasks, methods=['bitfit'])
    Runner(plan).run()
    searched = {
        name: {
            run['lr']
            for run in finished(plan)
            if (run['task'], run['stage']) == (name, 'search')
        }
        for name in plan.study.tasks
    }
    assert searched == {'pixels': {1e-3, 4e-3}, 'others': {2e-3, 4e-3, 8e-3}}
    assert plan.totals() == {'pixels': 4, 'others': 5}


def test_a_changed_study_is_refused(plan_of):
    Runner(plan_of(lrs=0.004)).run()
    (task,) = STUDY['tasks']
    options = {**task['cfg_options'], 'train_cfg.max_iters': 6}
    plan = plan_of(lrs=0.004, tasks=[dict(task, cfg_options=options)])
    with pytest.raises(ValueError, match=r'4 runs in .*done otherwise') as e:
        refuse_changes(plan)
    assert (
        'pixels/flora-r16/0 lr 0.004 (final): other settings: '
        'train_cfg.max_iters\n' in str(e.value)
    )
    Runner(plan).run()  # as --accept-changes does
    refuse_changes(plan)
    assert len(finished(plan)) == 8

    plan = plan_of(lrs=0.004, tasks=[dict(task, cfg_options=options)])
    now = plan.versions['torch']
    plan.versions = {**plan.versions, 'torch': '9.9'}
    with pytest.raises(ValueError, match=f'torch {now}, now 9.9'):
        refuse_changes(plan)


def test_changed_runs_can_be_kept(plan_of):
    Runner(plan_of()).run()
    (task,) = STUDY['tasks']
    cfg_options = {**task['cfg_options'], 'default_hooks.logger.interval': 9}
    plan = plan_of(tasks=[dict(task, cfg_options=cfg_options)])
    before = finished(plan)
    # The searches name the final runs, which are kept, too.
    assert keep_changed(plan) == 8
    refuse_changes(plan)
    again = Runner(plan, fail='')  # would fail, if it ran anything
    assert again.run() == 0
    assert again.said == []
    kept = finished(plan)[8:]
    assert {line['kept'] for line in kept} == {
        'other settings: default_hooks.logger.interval'
    }
    for old, new in zip(before, kept, strict=True):
        assert old['metrics'] == new['metrics']
        assert old['key'] != new['key']
    assert keep_changed(plan) == 0

    # Once more: the line says both changes, and the versions of the run.
    plan = plan_of(tasks=[dict(task, cfg_options=cfg_options)])
    torch = plan.versions['torch']
    plan.versions = {**plan.versions, 'torch': '9.9'}
    assert keep_changed(plan) == 8
    last = finished(plan)[-1]
    assert last['kept'].endswith(f'logger.interval; torch {torch}, now 9.9')
    assert last['versions']['torch'] == torch


def test_a_failed_run_is_not_kept(plan_of):
    Runner(plan_of(lrs=0.004), fail='bitfit/1').run()
    plan = plan_of(lrs=0.004)
    plan.versions = {**plan.versions, 'torch': '9.9'}
    assert keep_changed(plan) == 3


def changed_plan(plan_of, **changes):
    """Return a plan whose settings have changed since its runs."""
    (task,) = STUDY['tasks']
    cfg_options = {**task['cfg_options'], 'default_hooks.logger.interval': 9}
    return plan_of(tasks=[dict(task, cfg_options=cfg_options)], **changes)


def test_a_failed_run_stands_in_no_one_s_way(plan_of):
    Runner(plan_of(lrs=0.004), fail='bitfit/1').run()
    plan = changed_plan(plan_of, lrs=0.004)
    assert keep_changed(plan) == 3
    refuse_changes(plan)
    assert Runner(plan).run() == 0
    assert len(finished(plan)) == 3 + 3 + 1


def test_the_log_is_read_once(plan_of, monkeypatch):
    """Else reading it would slow down the runs that are measured."""
    plan = plan_of(lrs=0.004)
    Runner(plan).run(['*/flora-r16/*'])
    reads = []

    def counted(path):
        reads.append(path)
        return read_lines(path)

    monkeypatch.setattr('mmflora.study.run_plan.read_lines', counted)
    runner = Runner(plan_of(lrs=0.004), seconds=2)
    runner.run()
    # At the start and after each of the two runs.
    assert len(reads) <= 3
    assert len(runner.said) == 2


def test_what_would_be_kept(plan_of):
    Runner(plan_of()).run()
    plan = changed_plan(plan_of)
    before = plan.log.read_bytes()
    assert keep_changed(plan, write=False) == 8
    refuse_changes(plan)
    assert 'these 0 can start' in dry_run(plan)
    assert plan.log.read_bytes() == before


def test_only_some_cells_are_kept_or_refused(plan_of):
    Runner(plan_of(lrs=0.004)).run()
    plan = changed_plan(plan_of, lrs=0.004)
    with pytest.raises(ValueError, match='^2 runs .*\n.*bitfit/0'):
        refuse_changes(plan, ['*/bitfit/*'])
    assert keep_changed(plan, ['*/bitfit/*']) == 2
    refuse_changes(plan, ['*/bitfit/*'])
    with pytest.raises(ValueError, match='^2 runs .*\n.*flora-r16/0'):
        refuse_changes(plan)


def test_an_unknown_metric_stops_the_study(plan_of):
    plan = plan_of(lrs=0.004)
    with pytest.raises(ValueError, match="no metric 'mIoU'.* gave accuracy"):
        Runner(plan, metric='accuracy').run()
    assert len(finished(plan)) == 1, 'what was trained is kept'


@pytest.mark.parametrize(
    ('cell', 'message'),
    [
        ('pixels', 'TASK/METHOD/SEED'),
        ('boxes/bitfit/0', "the task 'boxes' is not in the study"),
        ('pixels/lora/0', "the method 'lora' is not in the study"),
        ('pixels/bitfit/0', 'no finished run'),
    ],
)
def test_what_cannot_be_repeated(plan_of, cell, message):
    with pytest.raises(ValueError, match=message):
        find_line(plan_of(), cell)


def test_a_run_without_processors_does_not_start(plan_of):
    resources = dict(processes=10**6)
    plan = plan_of(lrs=0.004, methods=['bitfit'], seeds=0, resources=resources)
    (run,) = plan.runs({})
    folder = plan.prepare(run)
    started = []
    with pytest.raises(ValueError, match='1000000 × 1 processors'):
        RunProcess(
            *(run, folder, hold(folder), 0, plan.study.resources),
            command=lambda _: started.append(1) or ['true'],
        )
    assert not started


def test_a_repeated_run_needs_processors_for_itself_alone(
    plan_of, monkeypatch
):
    Runner(plan_of(lrs=0.004)).run()
    plan = plan_of(lrs=0.004, resources=dict(processes=10**6))
    runner = Runner(plan)
    process = partial(RunProcess, command=runner.stub)
    monkeypatch.setattr('mmflora.study.repeated_run.RunProcess', process)
    monkeypatch.setattr(
        'mmflora.study.repeated_run._compared', lambda *words: words
    )
    run, old, new = repeat_run(plan, 'pixels/bitfit/1')
    assert old['metrics'] == new['metrics']
    assert run.cell == 'pixels/bitfit/1'


def test_two_studies_share_the_work(plan_of):
    plans = [plan_of(lrs=0.004) for _ in range(2)]
    runners = [Runner(plan, seconds=0.5) for plan in plans]
    other = multiprocessing.get_context('fork').Process(target=runners[1].run)
    other.start()
    assert runners[0].run() == 0
    other.join()
    assert other.exitcode == 0
    assert len(finished(plans[0])) == len(read_lines(plans[0].log)) == 4


def tasks_of_one_training(**changes):
    """Two tasks of the same trainings, tested on different images."""
    (task,) = STUDY['tasks']
    other = dict(task, name='others', trained_as='pixels', **changes)
    return [task, dict(other, test=dict(indices=[0, 1, 2]))]


def test_a_task_that_tests_the_models_of_another(plan_of):
    plan = plan_of(tasks=tasks_of_one_training())
    searches = [run for run in plan.runs({}) if run.stage == 'search']
    assert {run.task.name for run in searches} == {'pixels'}
    # It is named once the other has trained, with the rate chosen there.
    runner = Runner(plan)
    assert runner.run() == 0
    assert len(runner.said) == sum(plan.totals().values()) == 4 + 2 * 4
    runs = finished(plan)
    assert all(run['lr'] == 0.004 for run in runs if run['task'] == 'others')
    places = [(run['task'], run['method'], run['seed']) for run in runs]
    for method in ('flora-r16', 'bitfit'):
        for seed in (0, 1):
            trained = places.index(('pixels', method, seed))
            assert trained < places.index(('others', method, seed))


def test_a_checkpoint_stays_until_all_have_tested_it(plan_of):
    plan = plan_of(tasks=tasks_of_one_training(), lrs=0.004, seeds=0)
    first, *_ = plan.runs({})
    path = plan.prepare(first) / 'training/iter_4.pth'
    path.parent.mkdir()
    path.touch()
    Runner(plan).run([f'pixels/{first.method.name}/*'])
    assert path.exists()
    Runner(plan).run([f'others/{first.method.name}/*'])
    assert not path.exists()


def test_a_test_of_old_settings_drops_no_checkpoint(plan_of):
    Runner(plan_of(methods=['bitfit'])).run()
    plan = changed_plan(plan_of, methods=['bitfit'])
    (search,) = [run for run in plan.runs({}) if run.lr == 0.004]
    path = plan.prepare(search) / 'training/iter_4.pth'
    path.parent.mkdir()
    path.touch()
    # As --accept-changes does, stopped before the final run.
    Runner(plan, fail='bitfit/0 final').run(['*/0'])
    assert [line['stage'] for line in finished(plan)[4:]] == ['search'] * 2
    assert path.exists()
    Runner(plan).run(['*/0'], retry=True)
    assert not path.exists()


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        (dict(trained_as='boxes'), "trained_as 'boxes' is not in the study"),
        (dict(trained_as='others'), "'others', which trains nothing itself"),
        (
            dict(cfg_options={'train_dataloader.batch_size': 1}),
            "'others': it has trained_as='pixels', .* train_dataloader",
        ),
    ],
)
def test_what_cannot_be_the_same_training(plan_of, changes, message):
    tasks = tasks_of_one_training()
    tasks[1].update(changes)
    with pytest.raises(ValueError, match=message):
        plan_of(tasks=tasks).check()


def test_two_studies_write_what_they_share(plan_of, monkeypatch):
    def slow_sync(_file):
        time.sleep(0.5)

    monkeypatch.setattr(os, 'fsync', slow_sync)
    fork = multiprocessing.get_context('fork').Process
    writers = []
    for method in ('bitfit', 'frozen'):
        plan = plan_of(lrs=0.004, seeds=0, methods=[method])
        (run,) = plan.runs({})
        writers.append(fork(target=plan.prepare, args=[run]))
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0, 0]


def test_a_task_with_a_dot_in_its_name(plan_of):
    (task,) = STUDY['tasks']
    plan = plan_of(tasks=[dict(task, name='cells.v2')], lrs=0.004)
    run, *_ = plan.runs({})
    spec = json.loads((plan.prepare(run) / 'run.json').read_text())
    assert read_config(spec['frozen']).model.type
