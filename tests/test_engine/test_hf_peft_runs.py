"""Methods of peft through the runner: their base, merge and meaning.

How they train, resume and test: test_method_training.py.
"""

import pytest
import torch

from mmflora.adapters import adapted_layers, merge

from .toy import Logits, backbone_cfg, runner

pytest.importorskip('peft')

METHODS = {
    'dora': dict(peft_type='LORA', r=4, use_dora=True),
    'ia3': dict(peft_type='IA3'),
}


def config(base, options):
    built = backbone_cfg(base)
    built['adapter'] = dict(type='HFPEFT', **options)
    return built


def logits_of(tmp_path, name, backbone, checkpoint):
    built = runner(tmp_path / name, backbone, test=True)
    built._load_from = str(checkpoint)
    built.test()
    return Logits.last


def test_checkpoint_brings_its_base(tmp_path, base):
    """A model built without a base finds it by the adapter file."""
    options = dict(peft_type='OSF')
    trained = runner(
        tmp_path / 'run', config(base, options), epochs=1, test=True
    )
    trained.train()
    trained.test()
    expected = Logits.last
    without = config(None, options)
    last = tmp_path / 'run' / 'epoch_1.pth'
    assert torch.equal(logits_of(tmp_path, 'test', without, last), expected)


def test_merged_model_computes_the_same(tmp_path, base):
    built = runner(tmp_path / 'run', config(base, METHODS['ia3']), epochs=1)
    built.train()
    model = built.model.eval()
    images = torch.randn(2, 3, 32, 32)
    expected = model(images)
    assert adapted_layers(model)
    merge(model)
    assert not adapted_layers(model)
    torch.testing.assert_close(model(images), expected, rtol=1e-4, atol=1e-5)


def test_other_settings_are_another_meaning(tmp_path, base):
    trained = runner(tmp_path / 'run', config(base, METHODS['dora']), epochs=1)
    trained.train()
    other = config(base, METHODS['dora'] | dict(lora_alpha=99))
    with pytest.raises(ValueError, match='another meaning'):
        logits_of(tmp_path, 'test', other, tmp_path / 'run' / 'epoch_1.pth')
