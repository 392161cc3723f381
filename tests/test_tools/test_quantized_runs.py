"""The small UperNet over a quantized base, by the tools.

Default: 4 bits, two iterations and two more, a test and an inference.  Slow:
8 bits; the base in its own type, also with adapters that 4 bits trained.
"""

import re
from pathlib import Path

import pytest
import torch

from .conftest import CONFIGS
from .test_intern_vit_runs import FLORA, NAME, base
from .test_runs import EVERY, ITERS, losses, read_metric

pytestmark = pytest.mark.usefixtures(base.__name__)
SLOW = pytest.mark.slow
WAYS = dict(nf4='4 bits (nf4, ', int8='8 bits (int8, ')
PLAIN_CONFIG = FLORA


def train(config, work, iterations, *options):
    words = ('train.py', config, '--work-dir', work, *options)
    return (*words, '--cfg-options', EVERY, *ITERS.format(iterations).split())


@SLOW
@pytest.mark.parametrize('way', ['nf4', 'int8', ''])
def test_train_resume_and_test(workspace, way):
    config = CONFIGS / 'flora' / NAME.format(f'flora-r16_{way}'.strip('_'))
    work = workspace.folder / config.stem
    whole = work / 'iter_4.pth'
    inference = Path(__file__).with_name('inference.py')
    folder = workspace.folder / 'data/shapes/target/coco/val2017'
    picture = sorted(folder.iterdir())[0]
    trained, continued, tested, inferred = workspace.run_tools(
        train(config, work, 2),
        train(config, work, 4, '--resume'),
        ('test.py', config, whole, '--work-dir', work),
        (inference, config, whole, picture),
    )
    for text in (trained, continued, tested) if way else ():
        assert f'are kept in {WAYS[way]}' in text
        assert 'blocks.N.attn.qkv' in text
    # By init_model and by the inferencer, which never run init_weights().
    agreed = re.findall('(.*): weights True, predictions True', inferred)
    assert len(agreed) == 2, inferred
    assert len(losses(trained)) == len(losses(continued)) == 2
    assert 'resumed epoch: 0, iter: 2' in continued
    assert read_metric(continued, 'val', 'mIoU') == read_metric(
        tested, 'test', 'mIoU'
    )
    state = torch.load(whole, weights_only=True)['state_dict']
    assert 'backbone.blocks.3.mlp.fc2.adapter.core' in state
    assert 'backbone.pyramid.up1.0.weight' in state, 'it is new'
    assert 'backbone.blocks.3.mlp.fc2.weight' not in state
    assert 'backbone.pos_embed' not in state
    assert {type(value) for value in state.values()} == {torch.Tensor}


@SLOW
def test_another_storage_is_an_error_with_a_way_out(workspace):
    config = CONFIGS / 'flora' / NAME.format('flora-r16_nf4')
    work = workspace.folder / 'elsewhere'
    workspace.run_tools(train(config, work, 2))
    test = ('tools/test.py', PLAIN_CONFIG, work / 'iter_2.pth')
    root = Path(__file__).parents[2]
    command = ['python', root / test[0], *test[1:], '--work-dir', work]
    said = workspace.run(*command, code=1)
    last = said.strip().splitlines()[-1]
    assert last.startswith('ValueError: The adapters of the checkpoint')
    assert 'were trained over a base in 4 bits' in last
    way_out = 'model.backbone.allow_other_quantization=True'
    told = workspace.run(*command, '--cfg-options', way_out)
    assert read_metric(told, 'test', 'mIoU')
