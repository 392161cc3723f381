"""DeepSpeed's ZeRO over two processes with gloo, where it is installed."""

from importlib.util import find_spec

import pytest
import torch

from .fsdp_process import EvenModel, run_two
from .toy import Logits, backbone_cfg, runner, write_base

WITH = pytest.mark.skipif(
    find_spec('deepspeed') is None, reason='DeepSpeed is not installed'
)


def read(path):
    return torch.load(path, weights_only=True)


@pytest.mark.slow
@WITH
@pytest.mark.parametrize('stage', [2, 3])
@pytest.mark.parametrize('method', ['flora', 'full'])
def test_training_resumes_and_leaves_an_ordinary_checkpoint(
    tmp_path, stage, method
):
    base = write_base(tmp_path / 'base.pth')
    module = 'test_engine.deepspeed_process'
    first, second = run_two(module, tmp_path, base, stage, method)
    assert first['losses'] != second['losses'], 'they saw the same images'
    whole = read(tmp_path / 'whole/epoch_2.pth/weights.pth')
    again = read(tmp_path / 'half/epoch_2.pth/weights.pth')
    for key, value in whole['state_dict'].items():
        assert torch.equal(value, again['state_dict'][key]), key
    frozen = 'backbone.stages.0.blocks.0.mlp.fc1.weight'
    assert (frozen in whole['state_dict']) == (method == 'full')
    if method == 'flora':
        built = runner(
            tmp_path / 'run',
            backbone_cfg(base),
            test=True,
            model=EvenModel(backbone_cfg(base)),
            load_from=str(tmp_path / 'whole/epoch_2.pth/weights.pth'),
        )
        built.test()
        assert Logits.last.isfinite().all()


@pytest.mark.skipif(
    find_spec('deepspeed') is not None, reason='DeepSpeed is installed'
)
def test_a_missing_package_is_named(tmp_path):
    from mmflora.engine import DeepSpeedStrategy

    with pytest.raises(ImportError, match=r'requirements/deepspeed\.txt'):
        DeepSpeedStrategy(work_dir=str(tmp_path))


def strategy():
    """Return one without DeepSpeed's part."""
    from mmflora.engine import DeepSpeedStrategy

    built = DeepSpeedStrategy.__new__(DeepSpeedStrategy)
    built.config = {}
    return built


def test_clipping_and_accumulation_go_to_deepspeed():
    built = strategy()
    left = built._take_over(
        dict(
            type='OptimWrapper',
            clip_grad=dict(max_norm=3, norm_type=2),
            accumulative_counts=4,
            optimizer=dict(type='SGD', lr=1),
        )
    )
    assert left == dict(
        type='DeepSpeedOptimWrapper', optimizer=dict(type='SGD', lr=1)
    )
    assert built.config == dict(
        gradient_clipping=3, gradient_accumulation_steps=4
    )


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        (dict(type='AmpOptimWrapper'), "type 'AmpOptimWrapper'.*autocast"),
        (dict(clip_grad=dict(max_norm=1, norm_type=1)), 'the 2-norm alone'),
        (dict(clip_grad=dict(type='value', clip_value=1)), '2-norm alone'),
    ],
)
def test_what_deepspeed_cannot_do_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        strategy()._take_over(settings)


def test_only_its_folders_are_resumed(tmp_path):
    with pytest.raises(ValueError, match='Resume with the engine that wrote'):
        strategy().resume(str(tmp_path / 'epoch_1.pth'))
