"""Every small config, resumed: the same run as without a break, bit for bit.

All of it is slow; `tests/test_engine/test_resume.py` stands in by default.
"""

import pytest
from mmengine.config import Config
from test_engine.courses import assert_same_course

from .conftest import CONFIGS, ROOT
from .test_intern_vit_runs import base

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures(base.__name__)]
MODELS = {
    'mask-rcnn_convnextv2-atto': 'flora-r16_shapes',
    'oriented-rcnn-le90_convnextv2-atto': 'flora-r16_shapes',
    'upernet_convnextv2-atto': 'flora-r16_shapes-128x128',
    'upernet_internvit-tiny': 'flora-r16_shapes-128x128',
}
# Eight pictures are four batches; the third iteration is in mid-epoch.
# MMEngine does not repeat a validation that follows a checkpoint at once.
LOOPS = dict(
    epochs=('DefaultSampler', 'by_epoch=True, max_epochs=2'),
    iterations=(
        'InfiniteSampler',
        'by_epoch=False, max_iters=8, val_interval=5',
    ),
)
# Whole runs and resumed ones that a process has ten minutes for.
PAIRS = 6
WORKERS = [(0, False), (1, False), (1, True), (2, False), (2, True)]
SHORT = """
_base_ = '{config}'
train_cfg = dict(_delete_=True, {loop})
train_dataloader = dict(
    batch_size=2,
    num_workers={workers},
    persistent_workers={persistent},
    sampler=dict(type='{sampler}'),
)
val_dataloader = dict(num_workers=0, persistent_workers=False)
default_hooks = dict(
    checkpoint=dict(
        _delete_=True,
        type='mmflora.AdapterCheckpointHook',
        by_epoch=False,
        interval={interval},
    ),
    logger=dict(interval=1),
)
"""
AVERAGED = """
custom_hooks = [
    *_base_.custom_hooks,
    dict(type='EMAHook', momentum=0.1),
]
"""
# There are no eight batches.
CALIBRATED = """
model = dict(backbone=dict(peft=dict(calibration=dict(batches=2))))
"""
# Batch norms of two processes on a CPU know of their own images alone.
GROUP_NORMS = """
norm_cfg = dict(_delete_=True, type='GN', num_groups=8)
model = dict(
    decode_head=dict(norm_cfg=norm_cfg),
    auxiliary_head=dict(norm_cfg=norm_cfg),
)
"""


@pytest.fixture(scope='module', autouse=True)
def source(workspace):
    """The data that the bases of the small configs are trained on."""
    from demo.shapes import write_shapes

    folder = workspace.folder / 'data/shapes'
    write_shapes(folder, 'source', num_train=8, num_val=4)


class Runs:
    """Pairs of runs, with and without a break, for one process."""

    def __init__(self, workspace):
        self.workspace = workspace
        self.commands = []
        self.ends = []

    def add(self, name, config, loop, workers, interval=3, averaged=True):
        """Add a run and one that is resumed from its first checkpoint."""
        sampler, loop = LOOPS[loop]
        short = self.workspace.folder / f'resumed/{name}.py'
        short.parent.mkdir(exist_ok=True)
        peft = Config.fromfile(config).model.backbone.get('peft', {})
        text = SHORT + averaged * AVERAGED
        text += CALIBRATED * ('calibration' in peft)
        fields = dict(config=config, sampler=sampler, loop=loop)
        fields.update(workers=workers[0], persistent=workers[1])
        short.write_text(text.format(**fields, interval=interval))
        whole, rest = short.with_suffix('.whole'), short.with_suffix('.rest')
        validate = () if averaged else ('--no-validate',)
        train = ('train.py', short, *validate, '--work-dir')
        middle = whole / f'iter_{interval}.pth'
        self.commands += [(*train, whole), (*train, rest, '--resume', middle)]
        self.ends.append((whole / 'iter_8.pth', rest / 'iter_8.pth'))

    def check(self):
        """Run all, a few in each process; compare the ends of each pair."""
        for first in range(0, len(self.commands), 2 * PAIRS):
            self.workspace.run_tools(*self.commands[first : first + 2 * PAIRS])
        assert self.ends
        different = []
        for whole, rest in self.ends:
            try:
                assert_same_course(whole, rest)
            except AssertionError as error:
                different.append(f'{whole.parent.stem}: {str(error)[:300]}')
        assert not different, '\n'.join(different)


@pytest.mark.parametrize('loop', LOOPS)
@pytest.mark.parametrize('model', MODELS)
def test_any_loop_and_any_workers(workspace, model, loop):
    runs = Runs(workspace)
    config = CONFIGS / f'flora/{model}_{MODELS[model]}.py'
    for workers in WORKERS:
        name = f'{model}-{loop}-{workers[0]}-{workers[1]}'
        runs.add(name, config, loop, workers)
    runs.add(f'{model}-{loop}-end', config, loop, (1, True), interval=4)
    runs.check()


def some_at_a_time():
    """Yield a few configs of a model at a time: those of one process."""
    for model in MODELS:
        configs = sorted(CONFIGS.glob(f'*/{model}_*_shapes*.py'))
        for first in range(0, len(configs), PAIRS):
            some = configs[first : first + PAIRS]
            names = '-'.join(config.parent.name for config in some)
            yield pytest.param(model, some, id=f'{model}-{names}')


@pytest.mark.parametrize(('model', 'configs'), some_at_a_time())
def test_every_method(workspace, model, configs):
    runs = Runs(workspace)
    loop = 'iterations' if model.startswith('upernet') else 'epochs'
    for config in configs:
        runs.add(config.stem, config, loop, (1, True), averaged=False)
    runs.check()


def test_two_ranks(workspace):
    runs = Runs(workspace)
    model = 'upernet_convnextv2-atto'
    config = CONFIGS / f'flora/{model}_{MODELS[model]}.py'
    for loop in LOOPS:
        runs.add(f'ranks-{loop}', config, loop, (1, True))
    for index, (_, short, *options) in enumerate(runs.commands):
        if index % 2 == 0:
            short.write_text(short.read_text() + GROUP_NORMS)
        workspace.run(
            *(ROOT / 'tools/dist_train.sh', short, 2, *options),
            PORT=str(29721 + index),
        )
    for whole, rest in runs.ends:
        last = (whole.parent / 'last_checkpoint').read_text()
        name = last.rpartition('/')[2]
        assert_same_course(whole.with_name(name), rest.with_name(name))
