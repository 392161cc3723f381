import json
import sys
from pathlib import Path

import pytest
import torch

from mmflora.study.run_plan import StudyPlan
from mmflora.study.run_pool import StudyRunner
from mmflora.study.study_file import read_study

ROOT = Path(__file__).resolve().parents[2]
UPERNET = (
    ROOT / 'configs/frozen/upernet_convnextv2-atto_frozen_shapes-128x128.py'
)
STUDY = dict(
    tasks=[
        dict(
            name='pixels',
            config=str(UPERNET),
            metric='mIoU',
            cfg_options={
                'train_cfg.max_iters': 4,
                'train_cfg.val_interval': 4,
                'train_dataloader.batch_size': 2,
                'train_dataloader.num_workers': 0,
                'val_dataloader.num_workers': 0,
                'test_dataloader.num_workers': 0,
                'default_hooks.logger.interval': 1,
                'default_hooks.checkpoint.interval': 2,
            },
            val=dict(indices=[0, 1]),
            test=dict(indices=[2, 3]),
        )
    ],
    methods=['flora-r16', 'bitfit'],
    seeds=[0, 1],
    lrs=[1e-3, 4e-3],
    resources=dict(pin=False),
)
STUB = Path(__file__).with_name('stub_run.py')


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    """A folder with small data, and a base that nobody trained."""
    from demo.shapes import write_shapes
    from mmflora.models import ConvNeXt

    folder = tmp_path_factory.mktemp('study')
    write_shapes(folder / 'data/shapes', 'target', num_train=8, num_val=4)
    torch.manual_seed(0)
    base = ConvNeXt('convnextv2_atto').state_dict()
    (folder / 'work_dirs/shapes_base').mkdir(parents=True)
    torch.save(
        dict(state_dict={f'backbone.{key}': base[key] for key in base}),
        folder / 'work_dirs/shapes_base/base.pth',
    )
    return folder


@pytest.fixture
def place(data, monkeypatch):
    """That folder, as the working directory."""
    monkeypatch.chdir(data)
    return data


def write_study(path, **changes):
    """Write a study file; return its path."""
    settings = {**STUDY, **changes}
    lines = [f'{key} = {value!r}\n' for key, value in settings.items()]
    path.write_text(''.join(lines))
    return str(path)


@pytest.fixture
def plan_of(place, tmp_path):
    """Return a way to make the plan of a study."""

    def plan(**changes):
        path = write_study(tmp_path / 'study.py', **changes)
        return StudyPlan(read_study(path, work_dir=str(tmp_path / 'work')))

    return plan


class Runner(StudyRunner):
    """A runner of stubs, which keeps what was said.

    Attributes:
        behavior: What the stubs do, see stub_run.py.
    """

    def __init__(self, plan, **behavior):
        self.said = []
        self.behavior = dict(behavior, versions=plan.versions)
        super().__init__(plan, self.said.append, self.stub)

    def stub(self, folder):
        behavior = json.dumps(self.behavior)
        return [sys.executable, str(STUB), str(folder), behavior]


def example_line(task='pixels', method='lora', seed=0, **changes):
    """Return the line of a finished run."""
    return {
        'key': f'{task}/{method}/{seed}',
        'task': task,
        'method': method,
        'seed': seed,
        'lr': 0.001,
        'stage': 'final',
        'status': 'finished',
        'metrics': {'mIoU': 50.0 + seed},
        'config': 'c',
        'task_config': 't',
        'folder': f'runs/{method}-{seed}',
        'command': f'python tools/study.py S --repeat {task}/{method}/{seed}',
        'first_values': {'decode_head': f'head-{seed}'},
        'first_batches': f'batches-{seed}',
        'parameters': dict(method=1000, new=10, neck=0, heads=5000),
        'steps': 4,
        'seconds_per_step': 0.25,
        'peak_rss': 10**9,
        'seconds': 10.0,
        'versions': {'torch': '2'},
        'machine': dict(processor='one', threads=1),
        **changes,
    }
