"""Study files: what they mean, and what is refused."""

import json

import pytest
from mmengine.config import Config

from mmflora.study.dry_run import dry_run
from mmflora.study.split_data import check_splits
from mmflora.study.study_file import read_study

from .conftest import STUDY, write_study

(TASK,) = STUDY['tasks']
AS_PIXELS = dict(TASK, name='others', trained_as='pixels')


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        (dict(tasks=[]), 'no `tasks`'),
        (dict(tasks=[TASK, TASK]), "'pixels' occurs twice"),
        (dict(methods=['ssf', 'ssf']), "'ssf' occurs twice"),
        (dict(tasks=[dict(TASK, mertic='x')]), "is it 'metric'"),
        (dict(tasks=[dict(name='a', config='b')]), 'lacks `metric`'),
        (dict(tasks=[dict(TASK, name='a/b')]), 'folder'),
        (dict(tasks=[dict(TASK, name='mean')]), "column 'mean'"),
        (dict(methods=[dict(method=dict(type='SSF'))]), 'lacks `name`'),
        (dict(methods=[3]), 'methods holds 3'),
        (dict(seeds=[1, 1]), 'different numbers'),
        (dict(seeds=['a']), 'no int'),
        (dict(lrs=[True]), 'no float'),
        (dict(tasks=[dict(TASK, lrs=[0.1, 0.1])]), 'different numbers'),
        (
            dict(tasks=[TASK, dict(AS_PIXELS, lrs=[0.1])]),
            'both trained_as and lrs',
        ),
        (dict(baselines=['lora']), "baseline 'lora' is not in the study"),
        (
            dict(methods=[dict(method='lora-r8', budget='dora')]),
            "budget 'dora' is not in the study",
        ),
        (
            dict(methods=[dict(method='lora-r8', budget='0.2m')]),
            'no number of parameters',
        ),
        (
            dict(methods=[dict(method='lora-r8', rank=8, budget='1k')]),
            'both a rank',
        ),
        (dict(resources=dict(processes=0)), 'at least 1'),
        (dict(seed=[3]), "is it 'seeds'"),
    ],
)
def test_refused(tmp_path, changes, message):
    path = write_study(tmp_path / 'study.py', **changes)
    with pytest.raises(ValueError, match=r'study\.py') as error:
        read_study(path)
    assert message in str(error.value)


def test_what_a_file_says(tmp_path):
    methods = [
        'ssf',
        dict(method='lora-r8', name='lora', ranks=[4, 8]),
        dict(method='flora-r16', budget='lora-r4'),
    ]
    path = write_study(tmp_path / 'cells.py', methods=methods)
    study = read_study(path, {'resources.threads': 2})
    assert [*study.methods] == ['ssf', 'lora-r4', 'lora-r8', 'flora-r16']
    assert study.methods['lora-r4'].rank == 4
    assert study.resources.threads == 2
    assert study.search_seeds == (0,)
    assert study.work_dir.as_posix() == 'work_dirs/cells'
    assert study.lrs == (0.001, 0.004)


@pytest.mark.parametrize(
    ('task', 'error'),
    [
        (dict(val={}, test={}), 'same images in its val split'),
        (
            dict(
                val={},
                cfg_options=dict(
                    val_dataloader=None, val_evaluator=None, val_cfg=None
                ),
            ),
            'no val_dataloader',
        ),
        (dict(config='nowhere.py'), 'Config not found'),
        (dict(test=dict(data_root='nowhere')), 'nowhere'),
    ],
)
def test_tasks_that_cannot_run(plan_of, task, error):
    with pytest.raises((ValueError, FileNotFoundError), match=error):
        plan_of(tasks=[{**TASK, **task}]).check()


@pytest.mark.parametrize(
    ('method', 'error'),
    [
        ('florra-r16', "'florra-r16'"),
        (dict(method='bitfit', budget='1k'), 'no rank'),
    ],
)
def test_methods_that_cannot_run(plan_of, method, error):
    with pytest.raises((ValueError, FileNotFoundError), match=error):
        plan_of(methods=[method]).check()


@pytest.mark.parametrize(
    'changes',
    [
        dict(methods=['bitfit', dict(name='biases', method='bitfit')]),
        dict(tasks=[TASK, dict(TASK, name='others')]),
    ],
)
def test_cells_that_are_the_same(plan_of, changes):
    with pytest.raises(ValueError, match='would be compared with itself'):
        plan_of(**changes).check()


def test_a_task_that_is_not_asked_for_may_lack_its_data(plan_of):
    absent = dict(TASK, name='absent', test=dict(data_root='nowhere'))
    plan = plan_of(tasks=[absent, TASK])
    only = [f'{TASK["name"]}/*']
    plan.check(only)
    runs = [*plan.runs(plan.lines(), only)]
    assert {run.task.name for run in runs} == {TASK['name']}
    alone = [*plan_of(tasks=[TASK]).runs({})]
    assert [run.cell for run in runs] == [run.cell for run in alone] != []
    assert 'absent' not in dry_run(plan, only)
    with pytest.raises((ValueError, FileNotFoundError), match='nowhere'):
        plan.check(['absent/*'])


def test_another_metric_of_what_another_task_trains(plan_of):
    plan = plan_of(tasks=[TASK, dict(AS_PIXELS, metric='mAcc')], lrs=0.001)
    plan.check()
    first = [*plan.runs({})]
    lines = {plan.key(run): dict(status='finished') for run in first}
    both = [*plan.runs(lines)]
    assert len(both) == 2 * len(first)
    assert len({plan.key(run) for run in both}) == len(both)


def test_one_learning_rate_needs_no_validation(plan_of):
    cfg_options = {
        **TASK['cfg_options'],
        'val_dataloader': None,
        'val_evaluator': None,
        'val_cfg': None,
    }
    del cfg_options['val_dataloader.num_workers']
    task = dict(TASK, cfg_options=cfg_options, val={}, test={})
    plan = plan_of(tasks=[task], lrs=0.001)
    plan.check()
    assert {run.stage for run in plan.runs({})} == {'final'}


def test_ranks_meet_a_budget(plan_of):
    from mmflora.count.parameters import build_on_meta, count_model

    methods = [
        'lora-r8',
        dict(method='flora-r16', budget='lora-r8'),
        dict(name='flora-r2', method='flora-r16', rank=2),
    ]
    plan = plan_of(methods=methods)
    (task,) = plan.study.tasks.values()
    counts = {
        name: count_model(build_on_meta(plan.configs.method(task, m))).method
        for name, m in plan.study.methods.items()
    }
    # FLoRA of rank 16 has 348,541; a rank more or less is a tenth of that.
    assert abs(counts['flora-r16'] / counts['lora-r8'] - 1) < 0.1
    assert counts['flora-r2'] < 0.5 * counts['flora-r16']
    assert (plan.study.work_dir / 'ranks.json').is_file()


@pytest.mark.parametrize(
    'hook',
    [
        dict(type='CheckpointHook', interval=5, save_last=False),
        dict(type='CheckpointHook', interval=5, save_best='mIoU'),
        None,
    ],
    ids=str,
)
def test_the_end_of_a_training_is_kept(plan_of, hook):
    cfg_options = {**TASK['cfg_options'], 'default_hooks.checkpoint': hook}
    del cfg_options['default_hooks.checkpoint.interval']
    plan = plan_of(tasks=[dict(TASK, cfg_options=cfg_options)])
    run, *_ = plan.runs({})
    cfg = plan.configs.run(run.task, run.method, run.lr, run.seed)
    kept = cfg.default_hooks.checkpoint
    assert kept.get('save_last', True)
    assert 'save_best' not in kept
    assert kept.max_keep_ckpts == 1


def test_a_training_that_keeps_nothing_is_refused(plan_of):
    options = {'default_hooks.checkpoint': None}
    method = dict(method='bitfit', cfg_options=options)
    with pytest.raises(ValueError, match='no checkpoint hook'):
        plan_of(methods=[method]).check()


def splits(root, **datasets):
    """Return a config of splits, and write their COCO files."""
    cfg = {}
    for split in ('train', 'val', 'test'):
        dataset = dict(
            type='CocoDataset',
            data_root=str(root),
            ann_file=f'{split}.json',
            data_prefix=dict(img='images/'),
        )
        dataset.update(datasets.get(split, {}))
        cfg[f'{split}_dataloader'] = dict(dataset=dataset)
        cfg[f'{split}_evaluator'] = dict(type='CocoMetric')
    return Config(cfg)


def write_coco(path, *names):
    images = [dict(id=i, file_name=name) for i, name in enumerate(names)]
    path.write_text(json.dumps(dict(images=images)))


def test_an_image_in_two_splits(tmp_path):
    write_coco(tmp_path / 'train.json', 'a.png', 'b.png')
    write_coco(tmp_path / 'val.json', 'c.png')
    write_coco(tmp_path / 'test.json', 'd.png')
    check_splits(splits(tmp_path), 'cells', True)
    write_coco(tmp_path / 'test.json', 'd.png', 'b.png')
    with pytest.raises(ValueError, match=r'train split .* test .*b\.png'):
        check_splits(splits(tmp_path), 'cells', True)
    # The same name in another folder is another image.
    cfg = splits(tmp_path)
    cfg.test_dataloader.dataset.data_prefix.img = 'others/'
    check_splits(cfg, 'cells', True)
    # Which images a data set keeps of a file is known to it alone.
    cfg = splits(tmp_path, test=dict(indices=[0]))
    check_splits(cfg, 'cells', True)


@pytest.mark.parametrize(
    'same',
    [
        dict(data_prefix=dict(img='images')),
        dict(data_prefix=dict(img='other/../images/')),
        dict(data_root='.'),
    ],
    ids=str,
)
def test_a_folder_written_in_two_ways(tmp_path, monkeypatch, same):
    monkeypatch.chdir(tmp_path)
    cfg = splits(tmp_path)
    cfg.val_dataloader.dataset.ann_file = 'test.json'
    cfg.val_dataloader.dataset.update(same)
    with pytest.raises(ValueError, match='same images in its val split'):
        check_splits(cfg, 'cells', True)
