"""Published files, in their own keys, through the classes that read them."""

import runpy
from pathlib import Path

import mmdet.models  # noqa: F401
import mmseg.models
import pytest
import timm
import torch
from mmdet.models.backbones.swin import swin_converter
from mmengine.registry import MODELS
from published_files import (
    SWIN,
    dino,
    mae,
    microsoft_swin,
    mmseg_beit,
    mmseg_mae,
    mmseg_vit,
    timm_vit,
)

MMDET_SWIN = dict(type='mmdet.SwinTransformer', window_size=4, **SWIN)
OWN_SWIN = dict(MMDET_SWIN, convert_weights=True)
MMSEG_SWIN = dict(MMDET_SWIN, type='mmseg.SwinTransformer')
TIMM_SWIN = dict(
    type='mmflora.TimmBackbone',
    model_name='swin_tiny_patch4_window7_224',
    out_indices=(0, 1, 2, 3),
    img_size=64,
    window_size=4,
    embed_dim=8,
    depths=SWIN['depths'],
    num_heads=SWIN['num_heads'],
)
TIMM_VIT = dict(
    type='mmflora.TimmBackbone',
    model_name='vit_tiny_patch16_224',
    out_indices=(0, 2),
    img_size=64,
    embed_dim=16,
    depth=3,
    num_heads=2,
)
VIT = dict(embed_dims=16, num_layers=3, num_heads=2, out_indices=(0, 2))
MMSEG_VIT = dict(
    type='mmseg.VisionTransformer', img_size=64, patch_bias=True, **VIT
)
MMSEG_BEIT = dict(type='mmseg.BEiT', img_size=64, **VIT)
MMSEG_MAE = dict(type='mmseg.MAE', img_size=64, **VIT)
# What mmseg's class has beyond MAE's encoder.
MAE_NEW = (r'.*\.gamma_[12]', r'.*\.relative_position_bias_table')
RESNET = dict(type='mmdet.ResNet', depth=18, base_channels=4)


def converted_swin():
    """Return mmdet's own keys, which stand behind `backbone.`."""
    return swin_converter(microsoft_swin())


def mmseg_swin():
    return {
        key.removeprefix('backbone.'): value
        for key, value in converted_swin().items()
    }


def resnet():
    torch.manual_seed(0)
    return MODELS.build(RESNET).state_dict() | {'fc.bias': torch.ones(3)}


def prefixed(state, prefix):
    return {f'{prefix}{key}': value for key, value in state.items()}


def detector(state):
    neck = {'neck.weight': torch.ones(2), 'bbox_head.bias': torch.ones(3)}
    return dict(meta={}, state_dict=prefixed(state, 'backbone.') | neck)


SWIN_KEY = 'stages.1.blocks.1.attn.w_msa.qkv.weight'
TIMM_KEY = 'layers.1.blocks.1.attn.qkv.weight'
# What is in the file, the backbone, one key of it and the file's key.
FILES = {
    'Microsoft Swin, mmdet': (
        lambda: dict(model=microsoft_swin()), OWN_SWIN, SWIN_KEY, TIMM_KEY,
    ),
    'Microsoft Swin, timm': (
        lambda: dict(model=microsoft_swin()), TIMM_SWIN, TIMM_KEY, TIMM_KEY,
    ),
    'Microsoft Swin, two stages of timm': (
        lambda: dict(model=microsoft_swin()),
        dict(TIMM_SWIN, out_indices=(0, 1)),
        'layers.1.downsample.reduction.weight',
        'layers.0.downsample.reduction.weight',
    ),
    'mmdet Swin': (
        lambda: dict(state_dict=converted_swin()),
        MMDET_SWIN, SWIN_KEY, TIMM_KEY,
    ),
    'mmdet Swin without its prefix': (
        lambda: mmseg_swin(), MMDET_SWIN, SWIN_KEY, TIMM_KEY,
    ),
    'mmseg Swin': (
        lambda: dict(state_dict=mmseg_swin()), MMSEG_SWIN, SWIN_KEY, TIMM_KEY,
    ),
    'detector with Swin': (
        lambda: dict(
            state_dict=converted_swin() | {'neck.bias': torch.ones(2)}
        ),
        MMDET_SWIN, SWIN_KEY, TIMM_KEY,
    ),
    'DINO, timm': (
        lambda: dino(timm_vit()), TIMM_VIT,
        'blocks.1.mlp.fc1.weight', 'blocks.1.mlp.fc1.weight',
    ),
    'DINO of one process': (
        lambda: dino(timm_vit(), ranks=False), TIMM_VIT,
        'blocks.1.mlp.fc1.weight', 'blocks.1.mlp.fc1.weight',
    ),
    'DINO ResNet': (
        lambda: dino(resnet()), RESNET,
        'layer3.0.conv1.weight', 'layer3.0.conv1.weight',
    ),
    'MAE': (
        lambda: mae(timm_vit(), decoder=False), TIMM_VIT,
        'blocks.1.mlp.fc1.weight', 'blocks.1.mlp.fc1.weight',
    ),
    'MAE with its decoder': (
        lambda: mae(timm_vit(), decoder=True), TIMM_VIT,
        'blocks.1.mlp.fc1.weight', 'blocks.1.mlp.fc1.weight',
    ),
    'mmseg ViT': (
        lambda: mmseg_vit(timm_vit()), MMSEG_VIT,
        'layers.1.ffn.layers.1.weight', 'blocks.1.mlp.fc2.weight',
    ),
    'mmseg BEiT': (
        lambda: dict(model=mmseg_beit()), MMSEG_BEIT,
        'layers.1.ffn.layers.1.weight', 'layers.1.ffn.layers.1.weight',
    ),
}  # fmt: skip
WRAPPERS = {
    'bare': lambda state: state,
    'params': lambda state: dict(params=state, step=3),
    'params_ema': lambda state: dict(params_ema=state),
    'model_state_dict': lambda state: dict(model_state_dict=state, epoch=1),
    'model': lambda state: dict(model=state, optimizer={}),
    'module': lambda state: dict(state_dict=prefixed(state, 'module.')),
    'state_dict in model': lambda state: dict(model=dict(state_dict=state)),
    'teacher': lambda state: dict(teacher=prefixed(state, 'module.backbone.')),
    'student': lambda state: dict(student=prefixed(state, 'backbone.')),
}


def build(path, backbone, prefix=None, **options):
    source = dict(type='Pretrained', checkpoint=str(path))
    source |= dict(prefix=prefix) if prefix else {}
    if backbone['type'].endswith('.SwinTransformer'):
        options.setdefault('new_params', r'norm[0-3]\..*')
    return MODELS.build(
        dict(
            type='mmflora.PEFTBackbone',
            backbone=dict(backbone, init_cfg=source),
            adapter=None,
            **options,
        )
    )


def write(path, content):
    torch.save(content, path)
    return path


def said(line, part):
    return line.startswith('Base weights') and part in line


@pytest.fixture
def log(log_text, caplog):
    """Return what has been said while a test runs."""
    return lambda: caplog.messages


@pytest.mark.parametrize(
    ('content', 'backbone', 'key', 'theirs'), FILES.values(), ids=FILES
)
def test_published_file(content, backbone, key, theirs, tmp_path):
    content = content()
    built = build(write(tmp_path / 'base.pth', content), backbone)
    assert built.base_record.in_place
    stored = {**resnet(), **microsoft_swin(), **timm_vit(), **mmseg_beit()}
    assert torch.equal(built.state_dict()[key], stored[theirs])


def beit_converter():
    """Return mmsegmentation's own converter of BEiT's and MAE's weights."""
    tool = Path(mmseg.__file__).parent / (
        '.mim/tools/model_converters/beit2mmseg.py'
    )
    return runpy.run_path(str(tool))['convert_beit']


def test_mae_as_mmseg_converts_it(tmp_path):
    """Scales and tables of its class are in no file of MAE."""
    state = mmseg_mae(timm_vit())
    own = beit_converter()(timm_vit())
    assert own.keys() == state.keys()
    assert all(torch.equal(own[key], state[key]) for key in state)
    path = write(tmp_path / 'base.pth', state)
    with pytest.raises(ValueError, match=r'missing.*gamma_1') as caught:
        build(path, MMSEG_MAE)
    assert 'patch_embed.proj.' not in str(caught.value)
    built = build(path, MMSEG_MAE, new_params=MAE_NEW)
    values = built.state_dict()
    accounted = set(built.base_record.base_keys)
    unused = {key for key in state if key.startswith(('norm', 'patch_embed'))}
    assert (
        accounted
        - {'patch_embed.projection.weight', 'patch_embed.projection.bias'}
        == state.keys() - unused
    )
    for key in accounted:
        assert torch.equal(values[key], state[key]), key
    assert len(built.base_record.new_keys) == 3 * 3


def test_beit_as_mmseg_converts_it(tmp_path):
    """The tool leaves the patch embedding under its first name, too."""
    converted = beit_converter()(
        {
            key.replace('layers.', 'blocks.', 1)
            .replace('.ln', '.norm')
            .replace('ffn.layers.0.0', 'mlp.fc1')
            .replace('ffn.layers.1', 'mlp.fc2'): value
            for key, value in mmseg_beit().items()
            if 'projection' not in key
        }
    )
    assert converted.keys() == mmseg_beit().keys()


@pytest.mark.parametrize('wrap', WRAPPERS.values(), ids=WRAPPERS)
@pytest.mark.parametrize('kind', ['mmdet', 'timm', 'ConvNeXt'])
def test_wrappers(wrap, kind, tmp_path):
    config = {
        'mmdet': RESNET,
        'timm': TIMM_VIT,
        'ConvNeXt': dict(
            type='mmflora.ConvNeXt',
            arch=dict(depths=(1, 1, 1, 1), dims=(4, 4, 4, 4)),
        ),
    }[kind]
    stock = MODELS.build(config)
    path = write(tmp_path / 'base.pth', wrap(stock.state_dict()))
    state = build(path, config).state_dict()
    for key, value in stock.state_dict().items():
        assert torch.equal(state[key], value), key


@pytest.mark.parametrize(
    ('backbone', 'state'),
    [
        (MMDET_SWIN, mmseg_swin),
        (MMSEG_SWIN, mmseg_swin),
        (MMSEG_VIT, lambda: mmseg_vit(timm_vit())),
        (MMSEG_BEIT, mmseg_beit),
        (RESNET, resnet),
        (TIMM_VIT, timm_vit),
    ],
    ids=lambda value: value['type'] if isinstance(value, dict) else '',
)
def test_prefix_of_a_detector(backbone, state, tmp_path):
    path = write(tmp_path / 'detector.pth', detector(state()))
    built = build(path, backbone, prefix='backbone.')
    assert built.base_record.source['prefix'] == 'backbone.'
    bare = build(write(tmp_path / 'bare.pth', state()), backbone)
    assert built.base_record.sha256 == bare.base_record.sha256


@pytest.mark.parametrize(
    ('backbone', 'content'),
    [
        (OWN_SWIN, lambda: dict(model=microsoft_swin())),
        (MMSEG_VIT, lambda: mmseg_vit(timm_vit())),
        (TIMM_SWIN, lambda: dict(model=microsoft_swin())),
        (TIMM_VIT, lambda: dino(timm_vit())),
    ],
    ids=lambda value: value['type'] if isinstance(value, dict) else '',
)
def test_other_architectures_are_still_refused(backbone, content, tmp_path):
    path = write(tmp_path / 'base.pth', content())
    deeper = {
        'depths': dict(depths=(1, 2, 2, 1)),
        'num_layers': dict(num_layers=4, out_indices=(0, 3)),
        'depth': dict(depth=4, out_indices=(0, 3)),
    }
    changed = next(v for k, v in deeper.items() if k in backbone)
    with pytest.raises(ValueError, match='missing in the file'):
        build(path, dict(backbone, **changed))


FIRST_CONVS = {
    'ResNet': (RESNET, 'in_channels', 'conv1.weight', resnet),
    'mmdet Swin': (
        OWN_SWIN,
        'in_channels',
        'patch_embed.projection.weight',
        microsoft_swin,
    ),
    'mmseg ViT': (
        MMSEG_VIT,
        'in_channels',
        'patch_embed.projection.weight',
        lambda: mmseg_vit(timm_vit()),
    ),
    'timm': (TIMM_VIT, 'in_chans', 'patch_embed.proj.weight', timm_vit),
}


@pytest.mark.parametrize('channels', [1, 4, 6])
@pytest.mark.parametrize(
    ('config', 'option', 'key', 'state'), FIRST_CONVS.values(), ids=FIRST_CONVS
)
def test_images_of_other_channels(
    config, option, key, state, channels, tmp_path, log
):
    """timm's rule: sum for one channel, else repeat and scale."""
    path = write(tmp_path / 'base.pth', state())
    built = build(path, dict(config, **{option: channels}))
    weight = built.state_dict()[key]
    three = build(path, config).state_dict()[key]
    assert torch.equal(weight, timm.models.adapt_input_conv(channels, three))
    assert weight.shape[1] == channels
    (line,) = [text for text in log() if said(text, key)]
    assert f'3 to {channels} channels' in line


def test_convnext_with_four_channels(tmp_path, log):
    arch = dict(depths=(1, 1, 1, 1), dims=(4, 4, 4, 4))
    config = dict(type='mmflora.ConvNeXt', arch=arch)
    stock = MODELS.build(config)
    path = write(tmp_path / 'base.pth', stock.state_dict())
    built = build(path, dict(config, arch=dict(arch, in_chans=4)))
    wanted = timm.models.adapt_input_conv(4, stock.stem[0].weight)
    assert torch.equal(built.stem[0].weight, wanted)
    assert any('3 to 4 channels' in line for line in log())


@pytest.mark.parametrize(
    ('config', 'content', 'part'),
    [
        (
            dict(MMSEG_VIT, img_size=96),
            lambda: mmseg_vit(timm_vit()),
            'pos_embed',
        ),
        (dict(TIMM_VIT, img_size=96), timm_vit, 'pos_embed'),
        (dict(TIMM_VIT, img_size=96), lambda: dino(timm_vit()), 'pos_embed'),
        (
            dict(OWN_SWIN, window_size=7),
            microsoft_swin,
            'relative_position_bias_table',
        ),
        (
            dict(MMSEG_SWIN, window_size=7),
            mmseg_swin,
            'relative_position_bias_table',
        ),
        (
            dict(TIMM_SWIN, window_size=2),
            microsoft_swin,
            'relative_position_bias_table',
        ),
        (
            dict(MMSEG_BEIT, img_size=96),
            mmseg_beit,
            'relative_position_bias_table',
        ),
    ],
    ids=lambda value: value['type'] if isinstance(value, dict) else '',
)
def test_positions_of_another_size(config, content, part, tmp_path, log):
    built = build(write(tmp_path / 'base.pth', content()), config)
    assert built.base_record.in_place
    values = [v for k, v in built.state_dict().items() if k.endswith(part)]
    assert values
    assert all(value.std() > 0.1 for value in values)
    assert any(said(line, f'{part} resized') for line in log()), log()


def test_new_parameters_of_another_shape(tmp_path, log):
    """What a config calls new starts as the class draws it."""
    state = resnet()
    state['layer4.1.bn2.weight'] = torch.ones(3)
    path = write(tmp_path / 'base.pth', state)
    with pytest.raises(ValueError, match=r'layer4\.1\.bn2\.weight \(3,\)'):
        build(path, RESNET)
    built = build(path, RESNET, new_params=r'layer4\.1\.bn2\.weight')
    assert built.base_record.new_keys == ('layer4.1.bn2.weight',)
    assert (built.layer4[1].bn2.weight == 1).all()
    assert any('layer4.1.bn2.weight' in line for line in log())


def test_new_layers_of_intern_vit_of_another_shape(tmp_path, log):
    config = dict(
        type='mmflora.InternViT',
        img_size=16,
        patch_size=8,
        embed_dims=8,
        depth=4,
        num_heads=2,
        out_indices=(0, 1, 2, 3),
    )
    state = MODELS.build(config).state_dict()
    state['pyramid.up2.0.weight'] = torch.ones(4, 4, 2, 2)
    built = build(write(tmp_path / 'base.pth', state), config)
    assert built.pyramid.up2[0].weight.shape == (8, 8, 2, 2)
    assert torch.equal(built.pos_embed, state['pos_embed'])
    assert any(said(line, 'pyramid.up2.0.weight') for line in log())


def test_file_for_the_other_setting_of_convert_weights(tmp_path):
    path = write(tmp_path / 'base.pth', dict(model=microsoft_swin()))
    with pytest.raises(ValueError, match='`convert_weights`, False here'):
        build(path, MMDET_SWIN)


def test_lists_of_class_and_config_add_up(tmp_path):
    """What a config adds holds for classes that check the file themselves."""
    arch = dict(depths=(1, 1, 1, 1), dims=(4, 4, 4, 4))
    config = dict(type='mmflora.ConvNeXt', arch=arch)
    state = dict(MODELS.build(config).state_dict())
    del state['stages.3.blocks.0.mlp.fc2.bias'], state['norm0.weight']
    state |= {'aux.weight': torch.ones(2), 'head.fc.bias': torch.ones(2)}
    path = write(tmp_path / 'base.pth', state)
    new = r'stages\.3\.blocks\.0\.mlp\.fc2\.bias'
    with pytest.raises(ValueError, match=r'fc2\.bias'):
        build(path, config, unused_keys=[r'aux\..*'])
    with pytest.raises(ValueError, match=r'aux\.weight'):
        build(path, config, new_params=[new])
    built = build(path, config, new_params=[new], unused_keys=[r'aux\..*'])
    assert 'stages.3.blocks.0.mlp.fc2.bias' in built.base_record.new_keys
    assert 'norm0.weight' in built.base_record.new_keys


@pytest.mark.parametrize('value', [float('nan'), float('inf')])
@pytest.mark.parametrize(
    ('config', 'content', 'key'),
    [
        (RESNET, resnet, 'layer1.0.conv1.weight'),
        (TIMM_VIT, timm_vit, 'blocks.0.attn.qkv.weight'),
        (MMSEG_SWIN, mmseg_swin, 'stages.0.blocks.0.norm1.weight'),
    ],
    ids=lambda value: value['type'] if isinstance(value, dict) else '',
)
def test_weights_that_are_not_finite(config, content, key, value, tmp_path):
    state = content()
    state[key].view(-1)[0] = value
    path = write(tmp_path / 'base.pth', state)
    with pytest.raises(ValueError, match='base.pth') as caught:
        build(path, config)
    assert key in str(caught.value)
