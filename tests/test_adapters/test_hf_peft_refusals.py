"""What the bridge leaves out, and what it refuses."""

import re
import subprocess
import sys

import pytest
import torch
from hf_peft_cases import TYPES, adapt, adapters, net
from timm.layers import Conv2dSame, create_conv2d
from torch import nn

from mmflora.adapters import inject, merge
from mmflora.adapters.hf_peft import (
    MissingPeft,
    load_peft,
    refused_types,
    supported_types,
)


def test_every_method_of_peft_is_taken_or_refused():
    import peft

    offered = {kind.value for kind in peft.mapping.PEFT_TYPE_TO_TUNER_MAPPING}
    assert supported_types() == TYPES
    assert set(refused_types()) == offered - set(supported_types())
    assert all(refused_types().values())


@pytest.mark.parametrize('name', ['PROMPT_TUNING', 'PREFIX_TUNING', 'XLORA'])
def test_prompt_methods_are_refused(name):
    with pytest.raises(ValueError, match=rf'{name} does not adapt.*LORA'):
        adapt(net(), name)


def test_unknown_method_names_the_nearest():
    with pytest.raises(ValueError, match="Did you mean 'RANDLORA'"):
        adapt(net(), 'RANDLROA')
    with pytest.raises(TypeError, match='`peft_type` is the name'):
        adapt(net(), 3)
    with pytest.raises(TypeError, match='`peft_type` is the name'):
        inject(net(), dict(type='HFPEFT', r=3))


def test_unknown_option_names_the_nearest():
    with pytest.raises(TypeError, match=r"no option 'lora_alhpa'.*lora_alpha"):
        adapt(net(), 'LORA', lora_alhpa=3)


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(target_modules=['head']), '`targets`'),
        (dict(modules_to_save=['head']), '`targets`'),
        (dict(bias='all'), 'BitFit'),
        (dict(inference_mode=True), 'not for an adapter to decide'),
    ],
)
def test_options_that_are_not_the_adapters(options, message):
    with pytest.raises(ValueError, match=message):
        adapt(net(), 'LORA', **options)


def test_projections_are_always_saved():
    with pytest.raises(ValueError, match='always saves'):
        adapt(net(), 'VERA', save_projection=False)


@pytest.mark.parametrize('start', ['pissa', 'olora'])
def test_starts_that_rewrite_the_base_are_refused(start):
    model = net().float()
    before = model.head.weight.clone()
    with pytest.raises(ValueError, match=r'rewrites the frozen.*own PiSSA'):
        adapt(model, 'LORA', init_lora_weights=start, r=2)
    assert torch.equal(model.head.weight, before)
    assert type(model.head) is nn.Linear


def test_wrong_value_is_pefts_error():
    with pytest.raises(ValueError, match='positive integer'):
        adapt(net(), 'LORA', r=0)


def test_missing_peft_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, 'peft', None)
    with pytest.raises(MissingPeft, match='pip install'):
        load_peft()
    with pytest.raises(ImportError, match=r'mmflora\[peft\]'):
        adapt(net(), 'LORA')


def test_mmflora_works_without_peft():
    subprocess.run(
        [
            sys.executable,
            '-c',
            'import sys; sys.modules["peft"] = None; import mmflora\n'
            'from torch import nn; from mmflora.adapters import inject\n'
            'inject(nn.Sequential(nn.Linear(4, 4)), dict(type="FLoRA"))',
        ],
        check=True,
    )


class Kinds(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(8, 8)
        self.dilated = nn.Conv2d(8, 8, 3, dilation=2)
        self.grouped = nn.Conv2d(8, 8, 3, groups=2)
        self.depthwise = nn.Conv2d(8, 8, 3, groups=8)
        self.same = nn.Conv2d(8, 8, 3, padding='same')
        self.reflected = nn.Conv2d(8, 8, 3, padding=1, padding_mode='reflect')
        self.transposed = nn.ConvTranspose2d(8, 8, 2)
        self.norm = nn.BatchNorm2d(8)


@pytest.mark.parametrize(
    ('peft_type', 'options', 'name', 'why'),
    [
        ('LORA', dict(r=8), 'dilated', 'fails there'),
        ('LORA', dict(r=3), 'grouped', 'divisible|not|groups'),
        ('LORA', dict(r=8), 'transposed', 'not supported'),
        ('VERA', {}, 'grouped', 'No layers'),
        ('BOFT', dict(boft_block_size=4), 'depthwise', 'groups > 1'),
        ('OFT', {}, 'same', 'computes something else'),
        ('ADALORA', {}, 'depthwise', 'fails there'),
        ('OSF', {}, 'same', 'passes over Conv2d'),
    ],
)
def test_layers_left_out_are_reported(peft_type, options, name, why):
    model = Kinds()
    report = adapt(model, peft_type, **options)
    assert 'linear' in report.adapted
    assert re.search(why, report.left_out[name])
    assert type(getattr(model, name)) is type(getattr(Kinds(), name))


@pytest.mark.parametrize('peft_type', ['LOHA', 'LOKR'])
@pytest.mark.parametrize('kernel', [2, 3, 5])
@pytest.mark.parametrize('groups', [1, 8])
def test_padding_by_the_size_of_the_input(peft_type, kernel, groups):
    """TensorFlow's padding is the layer's own, and peft goes past it."""
    conv = create_conv2d(8, 8, kernel, stride=2, padding='same', groups=groups)
    assert type(conv) is Conv2dSame
    model = nn.ModuleDict({'conv': conv, 'fc': nn.Linear(8, 8)})
    report = adapt(model, peft_type, r=2)
    assert report.adapted == ['fc']
    assert 'fails there' in report.left_out['conv']


def test_attention_is_left_out():
    model = nn.ModuleDict(
        {'attn': nn.MultiheadAttention(8, 2), 'fc': nn.Linear(8, 8)}
    )
    report = adapt(model, 'LORA')
    assert report.adapted == ['fc']
    assert set(report.left_out) == {'attn', 'attn.out_proj'}
    assert 'MultiheadAttention' in report.left_out['attn']


def test_nothing_left_is_an_error():
    with pytest.raises(ValueError, match=r"'same'.*VeRA"):
        inject(
            Kinds(),
            dict(type='HFPEFT', peft_type='VERA'),
            targets=['same', 'grouped'],
        )


def test_layer_whose_merge_would_differ_is_not_merged():
    model = nn.ModuleDict({'conv': Kinds().reflected})
    adapt(model, 'LORA', r=2)
    with pytest.raises(ValueError, match=r"'conv'.*cannot be merged"):
        merge(model)
    why = adapters(model)['conv'].why_not_mergeable
    assert why == "peft's merged layer computes something else"


def test_start_that_moves_the_model_is_remarked():
    report = adapt(net(), 'FOURIERFT')
    assert 'does not start at the frozen' in report.remarks['head']
    assert not adapt(net(), 'LORA').remarks


def test_norms_with_statistics_are_left_out():
    model = nn.Sequential(nn.LayerNorm(4), nn.BatchNorm1d(4))
    report = adapt(model, 'LN_TUNING')
    assert report.adapted == ['0']
    assert 'statistics' in report.left_out['1']


def test_the_mode_of_the_model_stays():
    model = net().eval()
    adapt(model, 'PVERA')
    assert not any(module.training for module in model.modules())
    assert not adapters(model)['head'].peft_layer.training
    model.train()
    assert adapters(model)['head'].peft_layer.training


def test_equal_layers_are_tried_once(monkeypatch):
    from mmflora.adapters.hf_peft import trial

    tried = []
    inner = trial.Trials._try

    def counted(self, name, layer):
        tried.append(name)
        return inner(self, name, layer)

    monkeypatch.setattr(trial.Trials, '_try', counted)
    monkeypatch.setattr(trial.Trials, '_known', {})
    for options, expected in (
        ({}, ['0']),
        ({}, ['0']),
        (dict(r=4), ['0', '0']),
        (dict(alpha_pattern={'1': 2}), ['0', '0', '0', '1', '2', '3']),
    ):
        model = nn.Sequential(*(nn.Linear(8, 8) for _ in range(4)))
        adapt(model, 'LORA', **options)
        assert tried == expected
