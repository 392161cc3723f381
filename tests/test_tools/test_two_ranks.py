"""Two processes with gloo on the CPU; slow: through the scripts.

The loss of a segmentor is a mean over pixels, so the mean over two ranks of
two images each is the loss of one rank with the four.  What draws at random
or depends on the batch is switched off: augmentation, dropout, and batch
norms, which become group norms.  Detectors sample their proposals at random
in each process and have no such equality.
"""

import json
import re
import textwrap

import pytest
from python_process import free_port

from .conftest import CONFIGS, ROOT

UPERNET = CONFIGS / 'flora/upernet_convnextv2-atto_flora-r16_shapes-128x128.py'
# Sums of float32 in another order; measured: 4e-8 and 0.
LOSS_BOUND = 1e-6
GRADIENT_BOUND = 1e-5

CONFIG = f"""
_base_ = '{UPERNET}'
custom_imports = dict(imports=['mmflora', 'gather_losses'])
norm_cfg = dict(_delete_=True, type='GN', num_groups=8)
model = dict(
    decode_head=dict(norm_cfg=norm_cfg, dropout_ratio=0.0),
    auxiliary_head=dict(norm_cfg=norm_cfg, dropout_ratio=0.0),
)
pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', reduce_zero_label=True),
    dict(type='Resize', scale=(128, 128)),
    dict(type='PackSegInputs'),
]
train_dataloader = dict(
    sampler=dict(shuffle=False), dataset=dict(pipeline=pipeline)
)
train_cfg = dict(max_iters=2, val_interval=4)
default_hooks = dict(checkpoint=dict(interval=2))
custom_hooks = [dict(type='GatherLosses')]
"""
HOOK = """
import json
import os

from mmengine.dist import all_gather, get_rank
from mmengine.hooks import Hook
from mmengine.registry import HOOKS


@HOOKS.register_module()
class GatherLosses(Hook):
    priority = 'VERY_LOW'

    def after_train_iter(self, runner, batch_idx, data_batch, outputs):
        values = all_gather(outputs['loss'].detach())
        norm = runner.message_hub.get_scalar('train/grad_norm').current()
        if get_rank() == 0:
            path = os.path.join(runner.work_dir, 'losses.jsonl')
            losses = [float(value) for value in values]
            with open(path, 'a') as file:
                file.write(json.dumps([losses, float(norm)]) + chr(10))
"""


@pytest.fixture(scope='module')
def config(workspace):
    (workspace.folder / 'gather_losses.py').write_text(textwrap.dedent(HOOK))
    path = workspace.folder / 'two_ranks.py'
    path.write_text(textwrap.dedent(CONFIG))
    return path


@pytest.fixture(scope='module')
def two_ranks(workspace, config):
    """Two iterations of two images on each of two ranks."""
    shared = dict(
        WORLD_SIZE='2',
        MASTER_ADDR='127.0.0.1',
        MASTER_PORT=free_port(),
        PYTHONPATH='.',
    )
    ranks = [
        workspace.start(
            *(ROOT / 'tools/train.py', config, '--work-dir', 'two'),
            *('--launcher', 'pytorch', '--cfg-options'),
            'train_dataloader.batch_size=2',
            **dict(shared, RANK=rank, LOCAL_RANK=rank),
        )
        for rank in '01'
    ]
    for code, output in [rank.finish() for rank in ranks]:
        assert code == 0, output[-6000:]
    return workspace.folder / 'two'


def read_losses(folder):
    lines = (folder / 'losses.jsonl').read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_first_steps_equal_those_of_one_rank(workspace, config, two_ranks):
    code, output = workspace.start(
        *(ROOT / 'tools/train.py', config, '--work-dir', 'one'),
        *('--cfg-options', 'train_dataloader.batch_size=4'),
        PYTHONPATH='.',
    ).finish()
    assert code == 0, output[-6000:]
    together = read_losses(two_ranks)
    alone = read_losses(workspace.folder / 'one')
    assert len(together) == len(alone) == 2
    (both, norm), ((loss,), expected_norm) = together[0], alone[0]
    assert both[0] != both[1], 'the ranks saw the same images'
    assert sum(both) / 2 == pytest.approx(loss, rel=LOSS_BOUND)
    assert norm == pytest.approx(expected_norm, rel=GRADIENT_BOUND)


@pytest.mark.slow
def test_two_ranks_resume_and_test(workspace, config, two_ranks):
    assert (two_ranks / 'iter_2.pth').is_file()
    text = workspace.run(
        *(ROOT / 'tools/dist_train.sh', config, 2, '--work-dir', 'two'),
        *('--resume', '--cfg-options', 'train_cfg.max_iters=4'),
        'train_dataloader.batch_size=2',
        PORT='29712',
        PYTHONPATH='.',
    )
    assert 'resumed epoch: 0, iter: 2' in text
    (after_training,) = re.findall(r'\(val\) .* mIoU: ([\d.]+)', text)
    assert len(read_losses(two_ranks)) == 4
    text = workspace.run(
        *(ROOT / 'tools/dist_test.sh', config, two_ranks / 'iter_4.pth', 2),
        PORT='29713',
        PYTHONPATH='.',
    )
    (tested,) = re.findall(r'\(test\) .* mIoU: ([\d.]+)', text)
    assert tested == after_training
