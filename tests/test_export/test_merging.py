"""Merged checkpoints: what they hold, and when none is written."""

import json

import pytest
import torch
from mmengine.config import Config

from mmflora.adapters import adapted_layers
from mmflora.checkpoint import content_hash
from mmflora.export import (
    MergeOptions,
    build_model,
    load_trained,
    merged_state,
    merging,
    plain_config,
)
from mmflora.export.merged_state import cast_parameters


def read(path):
    return torch.load(path, weights_only=True)


def test_file_is_the_stock_models(segmentor, tmp_path):
    out = tmp_path / 'new' / 'merged.pth'
    report = segmentor.merge(out)
    assert report.files == [out]
    assert [path.name for path in out.parent.iterdir()] == ['merged.pth']
    assert 0 < report.difference.relative < merging.BOUNDS['float32']
    content = read(out)
    plain = plain_config(segmentor.cfg())
    stock = build_model(plain.cfg)
    state = content['state_dict']
    assert list(state) == list(stock.state_dict())
    stock.load_state_dict(state, strict=True)

    adapted, meta = load_trained(segmentor.cfg(), str(segmentor.checkpoint))
    theirs = adapted.state_dict()
    layers = adapted_layers(adapted)
    assert len(layers) > 30
    for name, layer in layers.items():
        key = f'{name}.weight'
        wanted = layer.weight + layer.adapter.delta_weight()
        torch.testing.assert_close(state.pop(key), wanted)
        assert not torch.allclose(wanted, theirs[key], rtol=1e-3)
    assert len(state) > 50
    for key, value in state.items():
        assert torch.equal(value, theirs[key]), key

    found = content['meta']
    assert found['dataset_meta'] == meta['dataset_meta']
    assert found['epoch'] == 3
    assert 'mmflora' not in found['cfg']
    record = json.loads(found['merged_from'])['backbone']
    assert record['base']['checkpoint'] == str(segmentor.base)
    frozen = adapted.backbone
    assert record['base_sha256'] == content_hash(
        {k: frozen.get_parameter(k) for k in frozen.base_record.base_keys}
    )


@pytest.mark.parametrize(
    ('dtype', 'size'),
    [('float32', 4), ('float16', 2), ('bfloat16', 2)],
)
def test_dtype(segmentor, tmp_path, dtype, size):
    out = tmp_path / 'merged.pth'
    report = segmentor.merge(out, dtype=dtype)
    state = read(out)['state_dict']
    statistics = 'decode_head.bottleneck.bn.running_var'
    assert state[statistics].dtype == torch.float32
    weight = state['backbone.stages.0.blocks.0.mlp.fc1.weight']
    assert weight.dtype == getattr(torch, dtype)
    assert weight.element_size() == size
    low, high = {4: 1e-9, 2: 1e-5}[size], merging.BOUNDS[dtype]
    assert low < report.difference.relative < high


def test_value_beyond_float16_is_refused():
    model = torch.nn.Linear(2, 2)
    state = dict(model.state_dict(), weight=torch.full((2, 2), 7e4))
    with pytest.raises(ValueError, match=r"'weight' holds 7e\+04.*bfloat16"):
        cast_parameters(state, model, torch.float16)
    wide = cast_parameters(state, model, torch.bfloat16)
    assert wide['weight'].isfinite().all()


def test_file_beyond_the_bound_is_not_kept(segmentor, tmp_path):
    out = tmp_path / 'merged.pth'
    out.write_text('the last good one')
    with pytest.raises(ValueError, match='not kept.*--bound'):
        segmentor.merge(out, tmp_path / 'plain.py', bound=1e-12)
    assert [path.name for path in tmp_path.iterdir()] == ['merged.pth']
    assert out.read_text() == 'the last good one'


@pytest.mark.parametrize('dtype', [None, 'bfloat16'])
@pytest.mark.parametrize('change', ['sign', 'dropped', 'infinite'])
def test_wrong_merge_is_found(segmentor, tmp_path, monkeypatch, change, dtype):
    def wrong(model):
        layers = adapted_layers(model)
        layer = layers['backbone.stages.1.blocks.0.mlp.fc2']
        with torch.no_grad():
            if change == 'infinite':
                layer.base_weight()[0, 0] = float('nan')
            else:
                layer.adapter.core.mul_(-1 if change == 'sign' else 0)
        return merged_state(model)

    monkeypatch.setattr(merging, 'merged_state', wrong)
    with pytest.raises(ValueError, match='differs from the adapted one'):
        segmentor.merge(tmp_path / 'merged.pth', dtype=dtype, bound=1.0)
    assert list(tmp_path.iterdir()) == []


def test_frozen_backbone_without_adapters(segmentor, tmp_path):
    cfg = segmentor.cfg(**{'model.backbone.type': 'mmflora.PEFTConvNeXt'})
    cfg.model.backbone.adapter = None
    model = build_model(cfg)
    checkpoint = tmp_path / 'frozen.pth'
    torch.save(dict(state_dict=model.state_dict()), checkpoint)
    model, _ = load_trained(cfg, str(checkpoint))
    expected = model.state_dict()
    state = merged_state(model)
    assert state.keys() == expected.keys() - {'backbone.base_record.info'}
    assert all(torch.equal(state[key], expected[key]) for key in state)


def without(key):
    return lambda state: state.pop(key)


DAMAGES = {
    'head missing': without('decode_head.conv_seg.weight'),
    'adapter missing': without('backbone.stem.0.adapter.core'),
    'unknown': lambda state: state.update(other=torch.ones(1)),
    'shape': lambda state: state.update(
        {'decode_head.conv_seg.bias': torch.ones(5)}
    ),
}


@pytest.mark.parametrize('damage', DAMAGES.values(), ids=DAMAGES)
def test_checkpoint_that_does_not_fit(segmentor, tmp_path, damage):
    content = read(segmentor.checkpoint)
    damage(content['state_dict'])
    path = tmp_path / 'damaged.pth'
    torch.save(content, path)
    with pytest.raises(ValueError, match='does not f'):
        load_trained(segmentor.cfg(), str(path))


def test_other_base_is_refused(segmentor, tmp_path):
    content = read(segmentor.base)
    content['state_dict']['backbone.stem.0.weight'].add_(1)
    path = tmp_path / 'other.pth'
    torch.save(content, path)
    cfg = segmentor.cfg(**{'model.backbone.init_cfg.checkpoint': str(path)})
    with pytest.raises(ValueError, match='was trained over the base'):
        load_trained(cfg, str(segmentor.checkpoint))


@pytest.mark.parametrize(
    ('options', 'text'),
    [
        (dict(layout='timm'), '--backbone-only'),
        (dict(layout='fair', backbone_only=True), "'stock' or 'timm'"),
    ],
)
def test_options_that_do_not_go_together(options, text):
    with pytest.raises(ValueError, match=text):
        MergeOptions(**options)


def test_adapters_are_not_overwritten(segmentor, tmp_path):
    before = segmentor.checkpoint.read_bytes()
    with pytest.raises(ValueError, match='is an input of the merge'):
        segmentor.merge(segmentor.checkpoint)
    assert segmentor.checkpoint.read_bytes() == before
    with pytest.raises(ValueError, match=r'\.py.*is an input of the merge'):
        segmentor.merge(tmp_path / 'merged.pth', segmentor.config)
    assert list(tmp_path.iterdir()) == []


def test_backbone_only(segmentor, tmp_path):
    out = tmp_path / 'backbone.pth'
    segmentor.merge(out, backbone_only=True)
    state = read(out)['state_dict']
    whole = tmp_path / 'merged.pth'
    segmentor.merge(whole)
    expected = {
        key.removeprefix('backbone.'): value
        for key, value in read(whole)['state_dict'].items()
        if key.startswith('backbone.')
    }
    assert list(state) == list(expected)
    assert all(torch.equal(state[key], expected[key]) for key in state)


def test_peft_backbone_of_a_toolkit(tmp_path):
    """Merge a ResNet of MMDetection, whose norms have statistics."""
    stock = dict(
        type='mmdet.ResNet', depth=18, base_channels=8, frozen_stages=-1
    )
    cfg = Config(
        dict(
            default_scope='mmseg',
            model=dict(
                type='EncoderDecoder',
                backbone=dict(
                    type='mmflora.PEFTBackbone',
                    backbone=stock,
                    adapter=dict(type='FLoRA', rank=2, kernel_rank=2),
                    allow_random_base=True,
                ),
                decode_head=dict(
                    type='FCNHead',
                    in_channels=64,
                    in_index=3,
                    channels=8,
                    num_classes=3,
                ),
            ),
        )
    )
    from .conftest import randomise

    torch.manual_seed(0)
    model = build_model(cfg)
    randomise(model)
    checkpoint = tmp_path / 'adapters.pth'
    torch.save(dict(state_dict=model.state_dict()), checkpoint)
    files = merging.merge_checkpoint(
        cfg,
        str(checkpoint),
        tmp_path / 'merged.pth',
        tmp_path / 'plain.py',
        say=lambda text: None,
    ).files
    assert [path.name for path in files] == ['merged.pth', 'plain.py']
    plain = Config.fromfile(files[1])
    assert plain.model.backbone == stock
    merged = build_model(plain)
    merged.load_state_dict(read(files[0])['state_dict'], strict=True)
