"""The small InternViT through the scripts, sharded over two processes.

As in test_two_ranks.py, what draws at random or depends on the batch is
switched off, so that two ranks of two images are one rank with the four.
"""

import re
import textwrap

import pytest

from .conftest import CONFIGS, ROOT
from .test_intern_vit_runs import base  # noqa: F401
from .test_two_ranks import CONFIG, HOOK, UPERNET, read_losses

TWIN = 'upernet_internvit-tiny_{}_shapes-128x128.py'
# Sums of float32 in another order.
LOSS_BOUND = 1e-5
GRADIENT_BOUND = 1e-4
SHARDED = """
runner_type = 'FlexibleRunner'
strategy = dict(type='mmflora.FSDPStrategy')
"""


@pytest.fixture(scope='module')
def configs(workspace, base):  # noqa: F811
    (workspace.folder / 'gather_losses.py').write_text(textwrap.dedent(HOOK))
    paths = {}
    for method in ('flora-r16', 'full'):
        folder = method.partition('-')[0]
        text = CONFIG.replace(
            str(UPERNET), str(CONFIGS / folder / TWIN.format(method))
        )
        for name, more in (('plain', ''), ('sharded', SHARDED)):
            path = workspace.folder / f'{method}_{name}.py'
            path.write_text(textwrap.dedent(text) + more)
            paths[method, name] = path
    return paths


@pytest.mark.slow
@pytest.mark.parametrize('method', ['flora-r16', 'full'])
def test_sharded_training_is_that_of_one_process(workspace, configs, method):
    config = configs[method, 'sharded']
    two, one = f'{method}_two', f'{method}_one'
    options = dict(PYTHONPATH='.', PORT='29721')
    text = workspace.run(
        *(ROOT / 'tools/dist_train.sh', config, 2, '--work-dir', two),
        *('--cfg-options', 'train_dataloader.batch_size=2'),
        **options,
    )
    assert 'GPU number: 2' in text
    workspace.run(
        *('python', ROOT / 'tools/train.py', config, '--work-dir', one),
        *('--cfg-options', 'train_dataloader.batch_size=4'),
        PYTHONPATH='.',
    )
    together = read_losses(workspace.folder / two)
    alone = read_losses(workspace.folder / one)
    assert len(together) == len(alone) == 2
    for (both, norm), ((loss,), expected) in zip(together, alone, strict=True):
        assert sum(both) / 2 == pytest.approx(loss, rel=LOSS_BOUND)
        assert norm == pytest.approx(expected, rel=GRADIENT_BOUND)

    half = workspace.folder / two / 'iter_2.pth'
    text = workspace.run(
        *(ROOT / 'tools/dist_train.sh', config, 2, '--work-dir', two),
        *('--resume', '--cfg-options', 'train_cfg.max_iters=4'),
        'train_dataloader.batch_size=2',
        **options,
    )
    assert half.is_file()
    assert 'resumed epoch: 0, iter: 2' in text
    (validated,) = re.findall(r'\(val\) .* mIoU: ([\d.]+)', text)
    last = workspace.folder / two / 'iter_4.pth'
    text = workspace.run(
        ROOT / 'tools/dist_test.sh', config, last, 2, **options
    )
    assert re.findall(r'\(test\) .* mIoU: ([\d.]+)', text) == [validated]
    # One process, the ordinary runner, the same file.
    text = workspace.run(
        *('python', ROOT / 'tools/test.py', configs[method, 'plain'], last),
        PYTHONPATH='.',
    )
    assert re.findall(r'\(test\) .* mIoU: ([\d.]+)', text) == [validated]
