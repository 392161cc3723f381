"""Every method on whole backbones: checkpoints, bases, merging."""

import copy
import re

import pytest
import torch
from backbone_cases import CASES, build, images, in_mode
from mmengine.registry import MODELS
from torch import nn

from mmflora.adapters import adapted_modules, merge
from mmflora.checkpoint import adapter_state_dict
from mmflora.checkpoint.keys import matches_any

METHODS = {
    'FLoRA': dict(type='FLoRA', rank=2),
    'LoRA': dict(type='LoRA', rank=2),
    'LoRA, loralib': dict(type='LoRA', rank=2, form='loralib'),
    'DoRA': dict(type='DoRA', rank=2),
    'PiSSA': dict(type='PiSSA', rank=2),
    'OLoRA': dict(type='OLoRA', rank=2),
    'LoRA-XS': dict(type='LoRAXS', rank=2),
    'SSF': dict(type='SSF'),
    'FacT': dict(type='FacT', rank=2, form='tk'),
    'LoTR': dict(type='LoTR', rank=2),
    'SuperLoRA': dict(type='SuperLoRA', rank=2),
    'LoCA': dict(type='LoCA', frequencies=4),
    'SoKA': dict(type='SoKA', rank=2),
    'Full': dict(type='Full'),
    'BitFit': dict(type='BitFit'),
    'NormTuning': dict(type='NormTuning'),
    'Houlsby': dict(type='Houlsby', width=2),
    'Pfeiffer': dict(type='Pfeiffer', width=2),
    'AdaptFormer': dict(type='AdaptFormer', width=2),
    'LoRand': dict(type='LoRand', kernel=2),
    'Mona': dict(type='Mona', width=2),
    'Ladder': dict(type='Ladder', reduction=4),
    'E3VA': dict(type='E3VA', rank=2),
    'RepAdapter': dict(type='RepAdapter', rank=2),
}
BLOCKS = (
    *('Houlsby', 'Pfeiffer', 'AdaptFormer', 'LoRand', 'Mona', 'Ladder'),
    'E3VA',
)
TUNINGS = ('Full', 'BitFit', 'NormTuning')
# What their start needs of the base.
FROM_BASE = ('DoRA', 'PiSSA', 'OLoRA', 'LoRA-XS', 'SoKA')
BACKBONES = {
    name: CASES[name]
    for name in (
        'mmflora ConvNeXt',
        'timm vision transformer',
        'mmseg VisionTransformer',
        'mmdet SwinTransformer',
        'mmdet ResNet',
    )
}
CONVNEXT = BACKBONES['mmflora ConvNeXt']
# All methods on ConvNeXt; of each kind one on the others, the rest slowly.
KINDS = ('LoRA', 'DoRA', 'PiSSA', 'SSF', 'BitFit', 'Houlsby', 'Mona')
PAIRS = [
    pytest.param(
        (backbone, method),
        id=f'{method} | {backbone}',
        marks=()
        if backbone == 'mmflora ConvNeXt' or method in KINDS
        else pytest.mark.slow,
    )
    for backbone in BACKBONES
    for method in METHODS
    if not (method in BLOCKS and backbone == 'mmdet ResNet')
]


def randomise(backbone, spread=0.2):
    with torch.no_grad():
        for parameter in backbone.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter), alpha=spread)
    return backbone


def run(backbone, case):
    with torch.no_grad():
        return in_mode(backbone)(images(case))


def same(ours, theirs):
    return all(map(torch.equal, ours, theirs))


@pytest.fixture
def base_of(tmp_path):
    """Write a base for a case, whose every parameter is random."""

    def write(case, name='base.pth', seed=0):
        torch.manual_seed(seed)
        stock = MODELS.build(dict(case.config))
        new = (*case.new, *getattr(stock, 'new_params', ()))
        for key, parameter in stock.named_parameters():
            if not matches_any(new, key):
                nn.init.normal_(parameter, std=0.2)
        path = tmp_path / name
        state = stock.state_dict()
        held = {
            case.prefix + key: value
            for key, value in state.items()
            if not matches_any(new, key)
        }
        torch.save(dict(state_dict=held), path)
        # PyTorch's attention rounds otherwise where its weights train.
        return path, in_mode(stock.requires_grad_(False))

    return write


@pytest.fixture(params=PAIRS)
def pair(request):
    return request.param


@pytest.fixture
def method(pair):
    return pair[1]


@pytest.fixture
def served(pair, base_of):
    """Return case, settings, base file and the stock backbone over it."""
    case, settings = BACKBONES[pair[0]], METHODS[pair[1]]
    return (case, settings, *base_of(case))


def test_start_is_the_base(served, method):
    case, settings, path, stock = served
    adapted = build(case, path, settings)
    for ours, theirs in zip(run(adapted, case), run(stock, case), strict=True):
        # DoRA and SSF round the frozen layers' outputs once more, and so does
        # attention whose own weights train.
        tolerance = 1e-4 if method in ('DoRA', 'SSF', *TUNINGS) else 0
        torch.testing.assert_close(
            ours, theirs, rtol=tolerance, atol=tolerance
        )


def test_checkpoint_holds_what_trains_and_brings_it_back(served):
    case, settings, path, _ = served
    trained = randomise(build(case, path, settings))
    expected = run(trained, case)
    with adapter_state_dict():
        state = copy.deepcopy(trained.state_dict())
    trains = {n for n, p in trained.named_parameters() if p.requires_grad}
    buffers = {name for name, _ in trained.named_buffers()}
    assert set(state) == trains | buffers
    assert trains

    over_base = build(case, path, settings)
    assert not same(run(over_base, case), expected)
    over_base.load_state_dict(state)
    assert same(run(over_base, case), expected)

    # As init_detector builds it: the adapters bring their base.
    without = build(case, None, settings)
    without.load_state_dict(state)
    assert same(run(without, case), expected)
    ours, theirs = without.base_record, trained.base_record
    assert (ours.source, ours.sha256) == (theirs.source, theirs.sha256)


def test_base_and_trained_parameters_are_told_apart(served, method):
    case, settings, path, stock = served
    adapted = build(case, path, settings)
    record = adapted.base_record
    keys = set(record.base_keys), set(record.tuned_keys), set(record.new_keys)
    own = {name for name, _ in stock.named_parameters()}
    assert set.union(*keys) == own
    assert sum(map(len, keys)) == len(own)
    assert bool(record.tuned_keys) == (method in TUNINGS)
    for name, parameter in adapted.named_parameters():
        assert parameter.requires_grad == (name not in keys[0])
    # What trains is no part of the frozen base's content.
    assert randomise(adapted).base_record.sha256 == record.sha256
    assert bool(adapted_modules(adapted)) == (method not in TUNINGS)


def test_merged_is_plain_or_refused(served, method):
    case, settings, path, stock = served
    adapted = randomise(build(case, path, settings))
    before = run(adapted, case)
    if method in BLOCKS:
        with pytest.raises(ValueError, match='cannot be merged'):
            merge(adapted)
        return
    merge(adapted)
    state = {
        key: value
        for key, value in adapted.state_dict().items()
        if not key.startswith('base_record.')
    }
    stock.load_state_dict(state, strict=True)
    for ours, theirs in zip(run(stock, case), before, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)


def test_every_trained_parameter_gets_its_gradient(served, method):
    case, settings, path, _ = served
    adapted = randomise(build(case, path, settings), 0.05)
    in_mode(adapted, training=True)
    sum(output.square().mean() for output in adapted(images(case))).backward()
    idle = {
        name
        for name, parameter in adapted.named_parameters()
        if parameter.requires_grad and parameter.grad is None
    }
    # Of these no output depends on the class token's embedding alone.
    assert not {name for name in idle if '.adapter.' in name}
    assert all(
        parameter.grad is None
        for name, parameter in adapted.named_parameters()
        if not parameter.requires_grad
    )


@pytest.mark.parametrize('method', METHODS)
def test_a_plain_checkpoint_in_the_bases_place(method, base_of):
    path, _ = base_of(CONVNEXT)
    other, stock = base_of(CONVNEXT, 'other.pth', seed=1)
    adapted = build(CONVNEXT, path, METHODS[method])
    state = torch.load(other, weights_only=True)['state_dict']
    adapted.load_state_dict(state, strict=False)
    for ours, theirs in zip(
        run(adapted, CONVNEXT), run(stock, CONVNEXT), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('method', FROM_BASE)
def test_adapters_over_a_plain_checkpoint_start_from_it(method, base_of):
    path, _ = base_of(CONVNEXT)
    other, _ = base_of(CONVNEXT, 'other.pth', seed=1)
    replaced = build(CONVNEXT, path, METHODS[method])
    state = torch.load(other, weights_only=True)['state_dict']
    replaced.load_state_dict(state, strict=False)
    built = build(CONVNEXT, other, METHODS[method])
    starts = ('magnitude', 'start_up', 'start_down', 'left', 'right')
    found = 0
    for key, value in built.state_dict().items():
        if key.rsplit('.', 1)[-1] in starts:
            found += 1
            assert torch.equal(replaced.state_dict()[key], value)
    assert found


def test_another_method_is_refused_by_its_checkpoint(base_of):
    path, _ = base_of(CONVNEXT)
    with adapter_state_dict():
        state = build(CONVNEXT, path, METHODS['PiSSA']).state_dict()
        biases = build(CONVNEXT, path, METHODS['BitFit']).state_dict()
        wide = dict(type='LoRA', rank=2, alpha=1)
        scaled = build(CONVNEXT, path, wide).state_dict()
    lora = build(CONVNEXT, path, METHODS['LoRA'])
    for other, word in ((state, 'start_up'), (scaled, 'another scale')):
        with pytest.raises(ValueError, match=word):
            lora.load_state_dict(other, strict=False)
    with pytest.raises(ValueError, match='BitFit'):
        lora.load_state_dict(biases, strict=False)


def test_depthwise_kernels_in_full_and_the_rest_by_lora(base_of):
    path, stock = base_of(CONVNEXT)
    targets = {r'.*\.conv_dw': dict(type='Full'), '.*': {}}
    adapted = build(CONVNEXT, path, METHODS['LoRA'], targets=targets)
    tuned = set(adapted.base_record.tuned_keys)
    assert tuned == {
        name
        for name, _ in stock.named_parameters()
        if re.match(r'.*\.conv_dw\.', name)
    }
    assert not any('conv_dw' in name for name in adapted_modules(adapted))
    before = run(randomise(adapted), CONVNEXT)
    merge(adapted)
    for ours, theirs in zip(run(adapted, CONVNEXT), before, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_lean_layers_keep_gradients_of_tuned_norms(base_of):
    path, _ = base_of(CONVNEXT)
    gradients = []
    targets = {'.*': {}, r'.*norm|.*grn|stem\.1': dict(type='NormTuning')}
    for lean in (False, True):
        torch.manual_seed(0)
        adapted = build(
            CONVNEXT, path, METHODS['LoRA'], targets=targets, lean=lean
        )
        randomise(adapted)
        sum(x.square().mean() for x in adapted(images(CONVNEXT))).backward()
        gradients.append(
            {
                n: p.grad
                for n, p in adapted.named_parameters()
                if p.grad is not None
            }
        )
    assert gradients[0].keys() == gradients[1].keys()
    assert any('.norm.' in name for name in gradients[0])
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient)
