import pytest
import torch
from convnext_files import (
    ARCHS,
    FILES,
    SMALL,
    V1,
    V2,
    fair_layout,
    mmpretrain_layout,
    stock_net,
    timm_layout,
)
from safetensors.torch import save_file

from mmflora.checkpoint import pretrained_cfg
from mmflora.models import ConvNeXt, FLoRAConvNeXt

FLAT = {
    'fair': fair_layout,
    'timm': timm_layout,
    'mmpretrain': mmpretrain_layout,
}


def pretrained(path, **options):
    return dict(type='Pretrained', checkpoint=str(path), **options)


def write(path, content):
    if path.suffix == '.safetensors':
        save_file({k: v.contiguous() for k, v in content.items()}, path)
    else:
        torch.save(content, path)
    return path


def assert_holds(backbone, net):
    """Assert that a backbone has all weights of a net, up to its head."""
    state, expected = backbone.state_dict(), net.state_dict()
    body = [key for key in expected if not key.startswith('head.')]
    assert body
    for key in body:
        assert torch.equal(state[key], expected[key]), key


@pytest.fixture(params=ARCHS.values(), ids=ARCHS)
def arch(request):
    return request.param


@pytest.mark.parametrize('file', FILES.values(), ids=FILES)
def test_every_layout_gives_the_same_base(arch, file, tmp_path):
    net = stock_net(arch)
    reference = write(tmp_path / 'reference.pth', net.state_dict())
    path = write(tmp_path / 'base.pth', file(net))

    plain = ConvNeXt(arch=arch, init_cfg=pretrained(path))
    plain.init_weights()
    assert_holds(plain, net)

    adapted = FLoRAConvNeXt(arch=arch, init_cfg=pretrained(path))
    assert_holds(adapted, net)
    other = FLoRAConvNeXt(arch=arch, init_cfg=pretrained(reference))
    assert adapted.base_record.sha256 == other.base_record.sha256
    assert len(adapted.base_record.sha256) == 64
    assert adapted.base_record.source == pretrained(path)


@pytest.mark.parametrize('layout', FLAT.values(), ids=FLAT)
def test_safetensors(arch, layout, tmp_path):
    net = stock_net(arch)
    path = write(tmp_path / 'base.safetensors', layout(net))
    assert_holds(FLoRAConvNeXt(arch=arch, init_cfg=pretrained(path)), net)


@pytest.mark.parametrize('file', FILES.values(), ids=FILES)
def test_output_norms_are_new_whatever_the_layout(file, tmp_path):
    """No classifier's last norm becomes the norm of an output."""
    path = write(tmp_path / 'base.pth', file(stock_net(V2)))
    backbone = FLoRAConvNeXt(arch=V2, init_cfg=pretrained(path))
    for index in range(4):
        norm = backbone.get_submodule(f'norm{index}')
        assert (norm.weight == 1).all()
        assert not norm.bias.any()


@pytest.mark.parametrize('layout', FLAT.values(), ids=FLAT)
def test_backbone_of_a_detector(layout, tmp_path):
    net = stock_net(V2)
    state = {
        key if key.startswith('backbone.') else f'backbone.{key}': value
        for key, value in layout(net).items()
        if not key.startswith('head.')
    }
    norms = {
        f'backbone.norm{i}.{name}': torch.full((width,), float(i))
        for i, width in enumerate(V2['dims'])
        for name in ('weight', 'bias')
    }
    others = {'neck.weight': torch.ones(2), 'rpn_head.bias': torch.ones(3)}
    path = write(
        tmp_path / 'detector.pth', dict(state_dict=state | norms | others)
    )
    backbone = FLoRAConvNeXt(
        arch=V2, init_cfg=pretrained(path, prefix='backbone.')
    )
    assert_holds(backbone, net)
    assert (backbone.norm2.weight == 2).all()
    bare = FLoRAConvNeXt(arch=V2, init_cfg=pretrained(path, prefix='backbone'))
    assert bare.base_record.sha256 == backbone.base_record.sha256


def test_stages_that_are_not_built_are_not_missed(tmp_path):
    net = stock_net(V2)
    path = write(tmp_path / 'base.pth', dict(model=fair_layout(net)))
    backbone = FLoRAConvNeXt(
        arch=V2, out_indices=(0, 1), init_cfg=pretrained(path)
    )
    expected = net.state_dict()
    state = backbone.state_dict()
    assert not any(key.startswith('stages.2') for key in state)
    assert torch.equal(
        state['stages.1.blocks.1.conv_dw.weight'],
        expected['stages.1.blocks.1.conv_dw.weight'],
    )


def test_base_loads_before_and_after_injection(tmp_path):
    net = stock_net(V2)
    path = write(tmp_path / 'base.pth', dict(model=fair_layout(net)))
    backbone = FLoRAConvNeXt(arch=V2, allow_random_base=True)
    backbone.init_cfg = pretrained(path)
    backbone.init_weights()
    assert_holds(backbone, net)


def test_half_precision_file_fills_a_float32_model(tmp_path):
    net = stock_net(V2).half()
    path = write(tmp_path / 'base.pth', net.state_dict())
    backbone = FLoRAConvNeXt(arch=V2, init_cfg=pretrained(path))
    assert backbone.stem[0].weight.dtype == torch.float32
    assert_holds(backbone, net.float())


def test_timm_tag_reads_the_hubs_cache(tmp_path, monkeypatch):
    """The cache is laid out as the hub's client leaves it after a download."""
    net = stock_net(
        dict(depths=(2, 2, 6, 2), dims=(40, 80, 160, 320))
        | {'ls_init_value': None, 'use_grn': True, 'conv_mlp': True}
    )
    folder = tmp_path / 'hub' / 'models--timm--convnextv2_atto.fcmae'
    commit = '0123456789abcdef0123456789abcdef01234567'
    blob = folder / 'blobs' / ('ab' * 32)
    for path in (blob.parent, folder / 'refs', folder / 'snapshots' / commit):
        path.mkdir(parents=True)
    state = {k: v for k, v in timm_layout(net).items() if 'head.' not in k}
    save_file(state, blob)
    (folder / 'refs' / 'main').write_text(commit)
    link = folder / 'snapshots' / commit / 'model.safetensors'
    link.symlink_to(blob)
    monkeypatch.setattr('huggingface_hub.constants.HF_HUB_OFFLINE', True)
    monkeypatch.setattr(
        'huggingface_hub.constants.HF_HUB_CACHE', str(tmp_path / 'hub')
    )
    backbone = FLoRAConvNeXt(
        arch='convnextv2_atto',
        init_cfg=pretrained('timm://convnextv2_atto.fcmae'),
    )
    assert_holds(backbone, net)
    assert backbone.base_record.source['checkpoint'] == (
        'timm://convnextv2_atto.fcmae'
    )
    local = write(tmp_path / 'base.pth', dict(model=fair_layout(net)))
    other = FLoRAConvNeXt(arch='convnextv2_atto', init_cfg=pretrained(local))
    assert other.base_record.sha256 == backbone.base_record.sha256


def test_a_tag_that_cannot_be_fetched_is_an_error_with_a_way_out(
    tmp_path, monkeypatch
):
    monkeypatch.setattr('huggingface_hub.constants.HF_HUB_OFFLINE', True)
    monkeypatch.setattr(
        'huggingface_hub.constants.HF_HUB_CACHE', str(tmp_path / 'hub')
    )
    tag = 'timm://convnextv2_atto.fcmae'
    with pytest.raises(ConnectionError, match=tag) as caught:
        FLoRAConvNeXt(arch='convnextv2_atto', init_cfg=pretrained(tag))
    assert 'HF_HOME' in str(caught.value)
    assert 'init_cfg.checkpoint=FILE' in str(caught.value)


def without(key):
    return lambda state: {k: v for k, v in state.items() if k != key}


def with_key(key, *shape):
    return lambda state: state | {key: torch.ones(shape)}


DAMAGES = {
    'missing': (
        without('stages.1.1.dwconv.bias'),
        'missing in the file: stages.1.blocks.1.conv_dw.bias',
    ),
    'unknown block': (
        with_key('stages.1.2.dwconv.bias', 8),
        'unknown to the model: stages.1.blocks.2.conv_dw.bias',
    ),
    'unknown part': (
        with_key('neck.bias', 8),
        'unknown to the model: neck.bias',
    ),
    'shape': (
        with_key('stages.0.0.dwconv.weight', 6, 1, 5, 5),
        'stages.0.blocks.0.conv_dw.weight (6, 1, 5, 5) in the file, '
        '(6, 1, 7, 7) in the model',
    ),
    'layer scale of the other generation': (
        with_key('stages.0.0.gamma', 6),
        'unknown to the model: stages.0.blocks.0.gamma',
    ),
}


@pytest.mark.parametrize('kind', [ConvNeXt, FLoRAConvNeXt])
@pytest.mark.parametrize(('damage', 'part'), DAMAGES.values(), ids=DAMAGES)
def test_a_base_that_does_not_fit_is_listed(damage, part, kind, tmp_path):
    state = damage(fair_layout(stock_net(V2)))
    path = write(tmp_path / 'base.pth', dict(model=state))
    with pytest.raises(ValueError, match='do not fit') as caught:
        kind(arch=V2, init_cfg=pretrained(path)).init_weights()
    message = str(caught.value)
    assert str(path) in message
    assert part in message
    assert 'prefix' in message  # a remedy


@pytest.mark.parametrize(
    'arch',
    [
        V1,
        dict(V2, dims=(6, 8, 12, 18)),
        dict(V2, depths=(1, 2, 1, 2)),
        dict(V2, depths=(1, 1, 1, 1)),
    ],
    ids=['generation', 'wider', 'deeper', 'shallower'],
)
def test_weights_of_another_architecture(arch, tmp_path):
    path = write(tmp_path / 'base.pth', fair_layout(stock_net(V2)))
    with pytest.raises(ValueError, match='do not fit'):
        FLoRAConvNeXt(arch=arch, init_cfg=pretrained(path))


def test_refused_weights_leave_the_backbone_alone(tmp_path):
    state = without('stages.1.1.dwconv.bias')(fair_layout(stock_net(V2)))
    path = write(tmp_path / 'base.pth', state)
    backbone = ConvNeXt(arch=V2, init_cfg=pretrained(path))
    before = {
        key: value.clone() for key, value in backbone.state_dict().items()
    }
    with pytest.raises(ValueError, match='do not fit'):
        backbone.init_weights()
    after = backbone.state_dict()
    assert all(torch.equal(after[key], before[key]) for key in before)


def test_backbone_of_a_detector_needs_its_prefix(tmp_path):
    state = {f'backbone.{k}': v for k, v in stock_net(V2).state_dict().items()}
    path = write(tmp_path / 'detector.pth', state)
    with pytest.raises(ValueError, match='prefix') as caught:
        FLoRAConvNeXt(arch=V2, init_cfg=pretrained(path))
    assert 'backbone.stem.0.weight' in str(caught.value)


INIT_CFGS = {
    'none': (None, None),
    'empty': ([], None),
    'other kinds': (dict(type='Kaiming', layer='Conv2d'), None),
    'pretrained': (
        dict(type='Pretrained', checkpoint='a.pth'),
        dict(type='Pretrained', checkpoint='a.pth'),
    ),
    'in a list': (
        [
            dict(type='Kaiming', layer='Conv2d'),
            dict(type='Pretrained', checkpoint='a.pth', prefix='backbone.'),
        ],
        dict(type='Pretrained', checkpoint='a.pth', prefix='backbone.'),
    ),
    'by its class name': (
        dict(type='PretrainedInit', checkpoint='a.pth', map_location='cpu'),
        dict(type='Pretrained', checkpoint='a.pth'),
    ),
}


@pytest.mark.parametrize(
    ('config', 'expected'), INIT_CFGS.values(), ids=INIT_CFGS
)
def test_pretrained_cfg(config, expected):
    assert pretrained_cfg(config) == expected


def test_pretrained_cfg_of_a_class():
    from mmengine.model import PretrainedInit

    config = dict(type=PretrainedInit, checkpoint='a.pth')
    assert pretrained_cfg(config) == dict(
        type='Pretrained', checkpoint='a.pth'
    )


@pytest.mark.parametrize('checkpoint', [None, 3])
def test_pretrained_without_a_checkpoint(checkpoint):
    with pytest.raises(ValueError, match='names no checkpoint'):
        FLoRAConvNeXt(
            arch=SMALL, init_cfg=dict(type='Pretrained', checkpoint=checkpoint)
        )
