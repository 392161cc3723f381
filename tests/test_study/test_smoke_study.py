"""Studies with real runs.

Default: two methods, two seeds, four iterations, all in this process.  Slow:
through the tool, in all three toolkits, killed in the middle.
"""

import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from mmengine.runner import set_random_seed
from yapf.yapflib import yapf_api

from mmflora.config.build import build_model
from mmflora.files.json_lines import read_lines
from mmflora.study.first_values import start_with
from mmflora.study.image_scores import read_images
from mmflora.study.one_run import run_one
from mmflora.study.study_report import write_report

from .conftest import ROOT, STUDY, write_study

(TASK,) = STUDY['tasks']


@pytest.fixture
def unformatted(monkeypatch):
    """MMEngine writes configs as they are, which takes no seconds."""
    monkeypatch.setattr(yapf_api, 'FormatCode', lambda text, **_: (text, 0))


@pytest.mark.usefixtures('unformatted')
def test_two_methods_two_seeds(plan_of, tmp_path):
    plan = plan_of(lrs=0.004, pictures=2)
    folders = {run.cell: plan.prepare(run) for run in plan.runs({})}
    lines = {cell: run_one(folder) for cell, folder in folders.items()}
    assert [*lines] == [
        *('pixels/flora-r16/0', 'pixels/bitfit/0'),
        *('pixels/flora-r16/1', 'pixels/bitfit/1'),
    ]
    for seed in (0, 1):
        flora = lines[f'pixels/flora-r16/{seed}']
        bitfit = lines[f'pixels/bitfit/{seed}']
        for what in ('first_values', 'first_batches', 'steps'):
            assert flora[what] == bitfit[what]
    assert flora['first_values'].keys() == {
        *('backbone', 'decode_head', 'auxiliary_head')
    }
    other = lines['pixels/flora-r16/0']
    assert other['first_values'] != flora['first_values']
    assert other['first_batches'] != flora['first_batches']
    assert flora['parameters']['method'] == 348_541
    assert flora['steps'] == 4
    assert 0 < flora['seconds_per_step'] < flora['seconds']
    assert flora['peak_rss'] > 10**8
    assert flora['metrics'].keys() == {'aAcc', 'mIoU', 'mAcc'}

    # What was trained does not come back; what was measured does.
    checkpoints = [*plan.log.parent.rglob('iter_4.pth')]
    assert len(checkpoints) == 4
    before = [path.stat().st_mtime_ns for path in checkpoints]
    again = run_one(folders['pixels/flora-r16/0'])
    assert again['metrics'] == lines['pixels/flora-r16/0']['metrics']
    assert [path.stat().st_mtime_ns for path in checkpoints] == before

    # Another task tests the same models, on other images.
    other = dict(TASK, name='others', trained_as='pixels')
    tasks = [TASK, dict(other, test=dict(indices=[0, 1, 2]))]
    both = plan_of(tasks=tasks, lrs=0.004, methods=['bitfit'], seeds=0)
    _, run = both.runs(both.lines())
    line = run_one(both.prepare(run))
    assert (line['task'], line['seed']) == ('others', 0)
    assert line['metrics'] != lines['pixels/bitfit/0']['metrics']
    assert line['first_values'] == lines['pixels/bitfit/0']['first_values']
    assert [path.stat().st_mtime_ns for path in checkpoints] == before

    images = read_images(folders['pixels/bitfit/0'] / 'images.json.gz')
    assert len(images['images']) == 2
    assert images['classes'][-1] == 'background'
    write_report(plan.study, tmp_path / 'out')
    page = (tmp_path / 'out/report.html').read_text()
    assert page.count('<figcaption>') == 2 * 4


def test_heads_would_start_differently(plan_of):
    """The reason for first values: adapters draw before the heads."""
    plan = plan_of(lrs=0.004)
    weights = []
    for run in list(plan.runs({}))[:2]:
        cfg = plan.configs.run(run.task, run.method, run.lr, run.seed)
        set_random_seed(0)
        model = build_model(cfg)
        model.init_weights()
        weights.append(model.decode_head.conv_seg.weight)
    assert not torch.equal(*weights)


def test_another_head_is_refused():
    model = torch.nn.Linear(2, 3, bias=False)
    with pytest.raises(ValueError, match=r"'weight' has the shape \(3, 2\)"):
        start_with(model, {'weight': torch.zeros(2, 2)})


def tool(folder, *words):
    return subprocess.run(
        [sys.executable, str(ROOT / 'tools/study.py'), *map(str, words)],
        cwd=folder,
        stdout=subprocess.PIPE,
        text=True,
        timeout=600,
    )


def small_study(path, **changes):
    """Write a study of one short run; return its path."""
    settings = dict(methods=['flora-r16'], seeds=[0], lrs=[0.004])
    return write_study(path, **{**settings, **changes})


@pytest.mark.slow
def test_a_killed_run_resumes_and_ends_the_same(data):
    options = {**TASK['cfg_options'], 'train_cfg.max_iters': 40}
    study = small_study(
        data / 'killed.py', tasks=[dict(TASK, cfg_options=options)]
    )
    command = [sys.executable, str(ROOT / 'tools/study.py'), study]
    process = subprocess.Popen([*command, '--work-dir', 'broken'], cwd=data)
    # A training is resumed once its first batches are noted.
    while not all(
        any((data / 'broken').rglob(name))
        for name in ('iter_*.pth', 'start.json')
    ):
        assert process.poll() is None
        time.sleep(0.1)
    process.kill()
    process.wait()
    # The kill left the run alone; end it, too.
    for path in data.glob('broken/runs/*/*/*'):
        for entry in os.scandir('/proc'):
            if entry.name.isdigit():
                try:
                    with open(f'{entry.path}/cmdline', 'rb') as file:
                        words = file.read().split(b'\0')
                except OSError:
                    continue
                if str(path).encode() in words:
                    os.kill(int(entry.name), signal.SIGKILL)
    assert read_lines(data / 'broken/runs.jsonl') == []
    for work in ('broken', 'whole'):
        done = tool(data, study, '--work-dir', work)
        assert done.returncode == 0, done.stdout
    (broken,), (whole,) = (
        read_lines(data / work / 'runs.jsonl') for work in ('broken', 'whole')
    )
    assert broken['measured_steps'] < whole['measured_steps'] == 40
    same = ('metrics', 'first_values', 'first_batches', 'steps', 'key')
    assert {k: broken[k] for k in same} == {k: whole[k] for k in same}
    log = data / 'broken' / broken['folder'] / 'output.txt'
    assert 'resumed epoch' in log.read_text()


@pytest.mark.slow
def test_every_toolkit_through_the_tool(data, tmp_path):
    common = {
        key: value
        for key, value in TASK['cfg_options'].items()
        if 'iters' not in key and 'interval' not in key
    }
    common['train_cfg.max_epochs'] = 1
    tasks = [
        dict(
            name=name,
            config=str(ROOT / f'configs/frozen/{model}_frozen_shapes.py'),
            metric=metric,
            cfg_options=common,
            val=dict(indices=[0, 1]),
            test=dict(indices=[2, 3]),
        )
        for name, model, metric in (
            ('masks', 'mask-rcnn_convnextv2-atto', 'coco/segm_mAP'),
            ('turned', 'oriented-rcnn-le90_convnextv2-atto', 'dota/mAP'),
        )
    ]
    study = small_study(
        data / 'toolkits.py',
        tasks=[TASK, *tasks],
        lrs=[0.001, 0.004],
        pictures=2,
    )
    done = tool(data, study)
    assert done.returncode == 0, done.stdout
    assert '[9/9]' in done.stdout
    # Checkpoints of what was tested are gone.
    assert not any((data / 'work_dirs/toolkits/runs').rglob('*.pth'))
    assert tool(data, study).stdout == ''
    done = tool(data, study, '--report', tmp_path)
    assert done.returncode == 0, done.stdout
    page = (tmp_path / 'report.html').read_text()
    assert page.count('<h2>Predictions:') == 3
    done = tool(data, study, '--repeat', 'turned/flora-r16/0')
    assert 'DIFFERENT' not in done.stdout
    assert done.stdout.count(' same') >= 2
