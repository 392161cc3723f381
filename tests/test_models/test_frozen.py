import copy

import pytest
import torch
from backbone_cases import CASES, build, images, in_mode
from mmengine.model import BaseModule
from mmengine.registry import MODELS
from torch import nn

from mmflora.adapters import adapted_layers
from mmflora.checkpoint import adapter_state_dict
from mmflora.checkpoint.keys import matches_any


@pytest.fixture(params=CASES.values(), ids=CASES)
def case(request):
    return request.param


@pytest.fixture
def stock(case):
    """Build the plain backbone; every weight and statistic is random."""
    backbone = MODELS.build(case.config)
    with torch.no_grad():
        for key, value in backbone.state_dict().items():
            if value.is_floating_point():
                value.normal_(std=0.3)
                if key.endswith('running_var'):
                    value.abs_().add_(0.5)
        for name, parameter in backbone.named_parameters():
            if any(name.startswith(key) for key in ('norm0', 'norm1')):
                parameter.fill_(1.0)
    return backbone


@pytest.fixture
def base(case, stock, tmp_path):
    """Write the backbone's weights as its publishers would."""
    state = {
        case.prefix + key: value
        for key, value in stock.state_dict().items()
        if not matches_any(case.new, key)
    }
    state |= {key: torch.ones(3) for key in case.extra}
    path = tmp_path / 'base.pth'
    torch.save(dict(state_dict=state), path)
    return path


def stays(key):
    return '.adapter.' not in key and 'base_record' not in key


@pytest.mark.parametrize('training', [True, False], ids=['train', 'eval'])
def test_start_is_the_plain_backbone_bit_for_bit(case, stock, base, training):
    adapted = build(case, base, norm_eval=False)
    new = dict(adapted.named_parameters())
    with torch.no_grad():
        for name, parameter in stock.named_parameters():
            if name in adapted.base_record.new_keys:
                parameter.copy_(new[name])
    # PyTorch's attention rounds otherwise where its weights are to train.
    stock.requires_grad_(False)
    with torch.no_grad():
        expected = in_mode(stock, training)(images(case))
        features = in_mode(adapted, training)(images(case))
    assert len(features) == len(expected)
    for feature, wanted in zip(features, expected, strict=True):
        assert torch.equal(feature, wanted)
        assert wanted.std() > 0


def test_base_comes_from_the_file(case, stock, base):
    adapted = build(case, base)
    state, expected = adapted.state_dict(), stock.state_dict()
    loaded = [
        key
        for key in expected
        if key not in adapted.base_record.new_keys
        and expected[key].is_floating_point()
    ]
    assert len(loaded) > 20
    for key in loaded:
        assert torch.equal(state[key], expected[key]), key


def test_keys_class_and_layers_stay(case, stock):
    adapted = build(case)
    assert [key for key in adapted.state_dict() if stays(key)] == list(
        stock.state_dict()
    )
    assert type(adapted).__name__ == type(stock).__name__
    assert type(adapted).forward is type(stock).forward
    names = [name for name, _ in stock.named_modules()]
    assert [
        name
        for name, _ in adapted.named_modules()
        if stays(f'{name}.') and not name.endswith('.adapter')
    ] == names


def test_every_adapter_gets_its_gradient(
    case, base, randomise, adapter_parameters
):
    adapted = in_mode(build(case, base), True)
    randomise(adapter_parameters(adapted))
    sum(
        (feature * torch.randn_like(feature)).sum()
        for feature in adapted(images(case))
    ).backward()
    layers = adapted_layers(adapted)
    assert len(layers) >= 5
    for name, layer in layers.items():
        for parameter in layer.adapter.parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.any(), name
    trained = {n for n, p in adapted.named_parameters() if p.requires_grad}
    assert {n for n in trained if stays(n)} == set(
        adapted.base_record.new_keys
    )
    assert all(
        parameter.grad is None
        for name, parameter in adapted.named_parameters()
        if name not in trained
    )


def test_every_matrix_and_kernel_is_adapted(case):
    adapted = build(case)
    layers = {
        name
        for name, module in adapted.named_modules()
        for key, value in module.named_parameters(recurse=False)
        if key.endswith('weight') and value.dim() > 1
    }
    assert layers == set(adapted_layers(adapted))


@pytest.mark.parametrize('tuned', [False, True], ids=['frozen', 'tuned'])
def test_a_model_around_it_may_draw_all_layers(tmp_path, tuned):
    """ICNet does, and expects the weights of its backbone to load then."""
    stock = MODELS.build(dict(type='mmdet.ResNet', depth=18))
    file = str(tmp_path / 'base.pth')
    torch.save(stock.state_dict(), file)
    init = dict(type='Pretrained', checkpoint=file)
    method = dict(type='Full') if tuned else dict(type='FLoRA', rank=2)
    around = BaseModule(
        init_cfg=[
            dict(type='Kaiming', layer='Conv2d'),
            dict(type='Constant', val=3, layer='_BatchNorm'),
        ]
    )
    around.backbone = MODELS.build(
        dict(
            type='mmflora.PEFTBackbone',
            backbone=dict(type='mmdet.ResNet', depth=18, init_cfg=init),
            peft=dict(adapter=method),
        )
    )
    around = copy.deepcopy(around)
    around.init_weights()
    state = around.backbone.state_dict()
    for key, value in stock.state_dict().items():
        assert torch.equal(state[key], value), key


def test_init_weights_changes_nothing_more(case, base, randomise):
    adapted = build(case, base)
    randomise(value for value in adapted.parameters() if value.requires_grad)
    before = copy.deepcopy(adapted.state_dict())
    adapted.init_weights()
    nn.Sequential(adapted)[0].init_weights()
    after = adapted.state_dict()
    assert all(torch.equal(after[key], before[key]) for key in before)


@pytest.mark.parametrize('with_base', [True, False], ids=['base', 'no base'])
def test_adapters_travel_without_the_base(case, base, randomise, with_base):
    adapted = in_mode(build(case, base))
    randomise(value for value in adapted.parameters() if value.requires_grad)
    with torch.no_grad():
        for name, buffer in adapted.named_buffers():
            if name.endswith('running_mean'):
                buffer.normal_()
    with adapter_state_dict():
        state = copy.deepcopy(adapted.state_dict())
    assert not set(state) & set(adapted.base_record.base_keys)

    other = in_mode(build(case, base if with_base else None))
    result = other.load_state_dict(state, strict=True)
    assert result.missing_keys == []
    for feature, wanted in zip(
        other(images(case)), adapted(images(case)), strict=True
    ):
        assert torch.equal(feature, wanted)


def test_copies_compute_the_same(case, base, randomise, adapter_parameters):
    adapted = in_mode(build(case, base))
    randomise(adapter_parameters(adapted))
    other = copy.deepcopy(adapted)
    for feature, wanted in zip(
        other(images(case)), adapted(images(case)), strict=True
    ):
        assert torch.equal(feature, wanted)
    randomise(adapter_parameters(other))
    assert not torch.equal(other(images(case))[-1], adapted(images(case))[-1])


def test_frozen_base_without_adapters(case, stock, base):
    frozen = build(case, base, adapter=None)
    assert set(frozen.state_dict()) - {'base_record.info'} == set(
        stock.state_dict()
    )
    assert adapted_layers(frozen) == {}
    trained = {n for n, p in frozen.named_parameters() if p.requires_grad}
    assert trained == set(frozen.base_record.new_keys)


def test_autocast_gives_float32_features(case, base):
    adapted = in_mode(build(case, base, autocast=case.autocast))
    with torch.no_grad():
        features = adapted(images(case))
        plain = in_mode(build(case, base))(images(case))
    for feature, wanted in zip(features, plain, strict=True):
        assert feature.dtype == torch.float32
        assert not torch.equal(feature, wanted)


# Endings of weights that no class reshapes or interpolates on loading.
KERNELS = (
    'fc1.weight',
    'conv1.weight',
    'conv_pw.weight',
    'attn.proj.weight',
    'w_msa.proj.weight',
    'ffn.layers.0.weight',
    'ffn.layers.0.0.weight',
)
DAMAGES = {
    'missing': lambda state, key: state.pop(key),
    'shape': lambda state, key: state.update({key: torch.ones(2, 1, 3)}),
    'unknown': lambda state, key: state.update({f'{key}.x': torch.ones(2)}),
}


@pytest.mark.parametrize('damage', DAMAGES.values(), ids=DAMAGES)
def test_base_that_does_not_fit_is_listed(case, base, damage):
    content = torch.load(base)
    key = next(
        key
        for key, value in content['state_dict'].items()
        if value.dim() > 1 and key.endswith(KERNELS)
    )
    damage(content['state_dict'], key)
    torch.save(content, base)
    # mmdet's Swin refuses a shape by itself; the error then has its words.
    with pytest.raises(ValueError, match='do not fit|size mismatch') as caught:
        build(case, base)
    message = str(caught.value)
    assert str(base) in message
    assert key.removeprefix(case.prefix) in message


def file_without_prefix(base):
    content = torch.load(base)['state_dict']
    torch.save({f'model.{key}': value for key, value in content.items()}, base)


BAD_FILES = {
    'truncated': lambda base: base.write_bytes(base.read_bytes()[:5000]),
    'text': lambda base: base.write_text('<html>'),
    'list': lambda base: torch.save([1, 2], base),
    'no weights': lambda base: torch.save(dict(epoch=1), base),
    'other names': file_without_prefix,
}


@pytest.mark.parametrize('damage', BAD_FILES.values(), ids=BAD_FILES)
def test_unusable_file_is_named(case, base, damage):
    damage(base)
    with pytest.raises(ValueError, match=r'base\.pth'):
        build(case, base)


def test_missing_file(case, tmp_path):
    with pytest.raises(FileNotFoundError, match=r'nowhere\.pth'):
        build(case, tmp_path / 'nowhere.pth')
