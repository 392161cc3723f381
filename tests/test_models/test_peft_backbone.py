import copy
import logging
from dataclasses import dataclass, field

import mmdet.models  # noqa: F401
import mmseg.models  # noqa: F401
import pytest
import torch
from mmengine.logging import MMLogger
from mmengine.registry import MODELS, DefaultScope
from torch import nn

from mmflora.adapters import adapted_layers
from mmflora.checkpoint import adapter_state_dict
from mmflora.models import adapt_backbone

FLORA = dict(type='FLoRA', rank=2, kernel_rank=2, scale=0.5)


@dataclass
class Case:
    """A backbone, what stands in its files, and the options it needs."""

    config: dict
    size: int = 64
    prefix: str = ''
    extra: tuple = ()
    new: tuple = ()
    left_out: tuple = ()
    options: dict = field(default_factory=dict)


RESNET = dict(
    type='mmdet.ResNet',
    depth=18,
    base_channels=8,
    num_stages=4,
    norm_eval=True,
    frozen_stages=-1,
)
CASES = {
    'mmdet ResNet': Case(RESNET, extra=('fc.weight', 'fc.bias')),
    'mmdet ResNet, bottleneck': Case(
        dict(RESNET, depth=50), extra=('fc.weight', 'fc.bias')
    ),
    'mmdet SwinTransformer': Case(
        dict(
            type='mmdet.SwinTransformer',
            embed_dims=8,
            depths=(1, 2, 1, 1),
            num_heads=(1, 1, 2, 2),
            window_size=4,
            drop_path_rate=0.0,
        ),
        prefix='backbone.',
        new=(r'norm[0-3]\.(weight|bias)',),
    ),
    'mmseg VisionTransformer': Case(
        dict(
            type='mmseg.VisionTransformer',
            img_size=32,
            patch_size=8,
            embed_dims=16,
            num_layers=2,
            num_heads=2,
            out_indices=(0, 1),
        ),
        size=32,
        extra=('head.weight',),
        left_out=(
            'layers.0.attn.attn.out_proj',
            'layers.1.attn.attn.out_proj',
        ),
    ),
    'mmseg MixVisionTransformer': Case(
        dict(
            type='mmseg.MixVisionTransformer',
            embed_dims=8,
            num_layers=[1, 1, 1, 1],
            num_heads=[1, 1, 2, 4],
            drop_path_rate=0.0,
        ),
        extra=('head.weight', 'head.bias'),
        left_out=tuple(f'layers.{i}.1.0.attn.attn.out_proj' for i in range(4)),
    ),
    'mmflora ConvNeXt': Case(
        dict(
            type='mmflora.ConvNeXt',
            arch=dict(depths=(1, 1, 1, 1), dims=(6, 8, 12, 16), use_grn=True),
        ),
        extra=('head.fc.weight',),
        new=(),
    ),
    'timm vision transformer': Case(
        dict(
            type='mmflora.TimmBackbone',
            model_name='vit_tiny_patch16_224',
            img_size=32,
            patch_size=8,
            embed_dim=16,
            depth=3,
            num_heads=2,
            out_indices=(0, 2),
        ),
        size=32,
        extra=('head.weight', 'norm.bias'),
    ),
    'timm Swin': Case(
        dict(
            type='mmflora.TimmBackbone',
            model_name='swin_tiny_patch4_window7_224',
            img_size=64,
            window_size=4,
            embed_dim=8,
            depths=(1, 2, 1, 1),
            num_heads=(1, 1, 2, 2),
            drop_path_rate=0.0,
        ),
        extra=('head.fc.weight',),
    ),
    'timm ResNet': Case(
        dict(
            type='mmflora.TimmBackbone',
            model_name='resnet18',
            channels=(8, 8, 16, 16),
            stem_width=8,
            out_indices=(1, 2, 3, 4),
        ),
        extra=('fc.weight', 'fc.bias'),
    ),
}


@pytest.fixture(autouse=True)
def _quiet():
    """Backbones speak of every key that they do not know."""
    logger = MMLogger.get_current_instance()
    level = logger.level
    logger.setLevel(logging.ERROR)
    yield
    logger.setLevel(level)


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
    from mmflora.checkpoint.keys import matches_any

    state = {
        case.prefix + key: value
        for key, value in stock.state_dict().items()
        if not matches_any(case.new, key)
    }
    state |= {key: torch.ones(3) for key in case.extra}
    path = tmp_path / 'base.pth'
    torch.save(dict(state_dict=state), path)
    return path


def build(case, base=None, adapter=FLORA, **options):
    config = dict(case.config)
    if base is not None:
        config['init_cfg'] = dict(type='Pretrained', checkpoint=str(base))
    return MODELS.build(
        dict(
            type='mmflora.PEFTBackbone',
            backbone=config,
            adapter=adapter,
            new_params=case.new,
            **case.options,
            **options,
        )
    )


def in_mode(backbone, training=False):
    """Set the mode; ``train()`` and ``eval()`` of mmdet return nothing."""
    backbone.train(training)
    return backbone


def images(case, batch=2):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, 3, case.size, case.size, generator=generator)


def stays(key):
    return '.adapter.' not in key and 'base_record' not in key


@pytest.mark.parametrize('training', [True, False], ids=['train', 'eval'])
def test_start_is_the_plain_backbone_bit_for_bit(case, stock, base, training):
    adapted = build(case, base)
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


def test_every_matrix_and_kernel_is_adapted_or_left_out(case):
    adapted = build(case)
    layers = {
        name
        for name, module in adapted.named_modules()
        if getattr(module, 'weight', None) is not None
        and module.weight.dim() > 1
    }
    assert layers - set(adapted_layers(adapted)) == set(case.left_out)


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
    adapted = in_mode(build(case, base, autocast='bfloat16'))
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


def small(**options):
    config = dict(RESNET, **options)
    return dict(type='mmflora.PEFTBackbone', backbone=config, adapter=FLORA)


@pytest.mark.parametrize('scope', ['mmdet', 'mmseg', 'mmrotate'])
def test_scopes_of_the_toolkits(scope):
    """`ResNet` is the toolkit's own; mmrotate has mmdet's."""
    config = small(type='mmdet.ResNet' if scope == 'mmrotate' else 'ResNet')
    with DefaultScope.overwrite_default_scope(scope):
        backbone = MODELS.build(config)
    module = type(backbone).__module__
    assert module.startswith(scope.replace('mmrotate', 'mmdet'))
    assert len(adapted_layers(backbone)) >= 20


def test_prefix_of_a_detector(tmp_path):
    stock = MODELS.build(RESNET)
    state = {f'backbone.{k}': v + 1 for k, v in stock.state_dict().items()}
    path = tmp_path / 'detector.pth'
    torch.save(dict(state_dict=state | {'neck.bias': torch.ones(2)}), path)
    source = dict(type='Pretrained', checkpoint=str(path), prefix='backbone.')
    backbone = MODELS.build(small(init_cfg=source))
    assert torch.equal(backbone.conv1.weight, state['backbone.conv1.weight'])
    assert backbone.base_record.source == source

    wrong = dict(source, prefix='body.')
    with pytest.raises(ValueError, match=r'body\.') as caught:
        MODELS.build(small(init_cfg=wrong))
    assert str(path) in str(caught.value)


def test_norm_eval_stays_the_backbones_own():
    backbone = in_mode(MODELS.build(small()), True)
    assert backbone.training
    assert not backbone.layer1[0].bn1.training
    other = in_mode(MODELS.build(small(norm_eval=False)), True)
    assert other.layer1[0].bn1.training


def test_frozen_stages_would_freeze_adapters():
    with pytest.raises(ValueError, match='frozen_stages=-1') as caught:
        MODELS.build(small(frozen_stages=1))
    assert 'conv1.adapter' in str(caught.value)


def test_frozen_stages_without_adapters_in_them():
    config = small(frozen_stages=1)
    config['exclude'] = [r'conv1', r'layer1\..*']
    backbone = in_mode(MODELS.build(config), True)
    assert not backbone.bn1.training
    assert all(
        parameter.requires_grad
        for layer in adapted_layers(backbone).values()
        for parameter in layer.adapter.parameters()
    )


def test_new_params_that_match_nothing():
    config = dict(small(), new_params=[r'norm[0-3]\..*'])
    with pytest.raises(ValueError, match='new_params') as caught:
        MODELS.build(config)
    assert repr(r'norm[0-3]\..*') in str(caught.value)


def test_new_params_train_and_may_be_missing(tmp_path):
    stock = MODELS.build(RESNET)
    state = stock.state_dict()
    del state['layer4.1.bn2.weight']
    path = tmp_path / 'base.pth'
    torch.save(state, path)
    config = small(init_cfg=dict(type='Pretrained', checkpoint=str(path)))
    config['new_params'] = r'layer4\.1\.bn2\.weight'
    backbone = MODELS.build(config)
    assert backbone.layer4[1].bn2.weight.requires_grad
    assert not backbone.layer4[1].bn2.bias.requires_grad
    assert backbone.base_record.new_keys == ('layer4.1.bn2.weight',)


def test_unused_keys(tmp_path):
    state = MODELS.build(RESNET).state_dict()
    state |= {'aux.weight': torch.ones(2), 'fc.bias': torch.ones(2)}
    path = tmp_path / 'base.pth'
    torch.save(state, path)
    source = dict(type='Pretrained', checkpoint=str(path))
    with pytest.raises(ValueError, match=r'aux\.weight'):
        MODELS.build(small(init_cfg=source))
    own = [r'aux\..*', r'fc\..*']  # they take the default's place
    config = small(init_cfg=source) | dict(unused_keys=own)
    assert MODELS.build(config).base_record.in_place


class Stubborn(nn.Module):
    """Ignores its `init_cfg`."""

    def __init__(self, init_cfg):
        super().__init__()
        self.init_cfg = init_cfg
        self.conv = nn.Conv2d(3, 4, 3)

    def init_weights(self):
        pass


def test_backbone_that_loads_nothing(tmp_path):
    path = tmp_path / 'base.pth'
    torch.save(nn.Conv2d(3, 4, 3).state_dict(), path)
    backbone = Stubborn(dict(type='Pretrained', checkpoint=str(path)))
    with pytest.raises(ValueError, match='loaded nothing'):
        adapt_backbone(backbone, FLORA)


def test_layers_left_frozen_are_said(caplog):
    logger = MMLogger.get_current_instance()
    logger.setLevel(logging.INFO)
    logger.addHandler(caplog.handler)
    try:
        build(CASES['mmseg VisionTransformer'])
    finally:
        logger.removeHandler(caplog.handler)
    assert 'layers.0.attn.attn.out_proj' in caplog.text


def test_deformable_convolutions_are_left_frozen():
    deformable = dict(
        dcn=dict(type='DCN'), stage_with_dcn=(False, False, False, True)
    )
    backbone = MODELS.build(small(depth=50, **deformable))
    layers = adapted_layers(backbone)
    assert 'layer4.0.conv2' not in layers
    assert 'layer4.0.conv2.conv_offset' in layers
    assert not backbone.layer4[0].conv2.weight.requires_grad


def test_unknown_backbone_names_it():
    with pytest.raises(KeyError, match='NoSuchNet'):
        MODELS.build(small(type='mmdet.NoSuchNet'))
