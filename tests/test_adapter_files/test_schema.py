"""Older descriptions load; configs are read without being run."""

import json

import pytest
import torch
from safetensors.torch import save_file

from mmflora.adapter_files import apply_adapter, read_adapter
from mmflora.adapter_files.base_layout import layout_of
from mmflora.adapter_files.schema import plain_json
from mmflora.files.config_text import read_settings


@pytest.fixture
def version_0(adapter, tmp_path):
    """Write a folder as schema 0 was: one backbone, no metadata, no hash."""
    folder = tmp_path / 'old'
    folder.mkdir()
    backbone = adapter.backbone()
    config = dict(
        format='mmflora_adapter',
        schema_version=0,
        file='adapter_model.safetensors',
        toolkit='mmengine',
        method=backbone['method'],
        base=backbone['base']['source'],
        base_sha256=backbone['base']['sha256'],
        classes=['a', 'b', 'c'],
    )
    (folder / 'adapter_config.json').write_text(json.dumps(config))
    save_file(adapter.tensors, folder / 'adapter_model.safetensors')
    return folder


def test_version_0_loads(version_0, adapter, build):
    read = read_adapter(version_0)
    assert read.config['schema_version'] == 1
    assert read.config['dataset_meta'] == {'classes': ['a', 'b', 'c']}
    base = read.backbone()['base']
    assert base['sha256'] == adapter.backbone()['base']['sha256']
    model = apply_adapter(build(), read)
    for key, value in adapter.tensors.items():
        assert torch.equal(model.state_dict()[key], value)


def test_version_0_is_checked_too(version_0):
    file = version_0 / 'adapter_config.json'
    config = json.loads(file.read_text())
    file.write_text(json.dumps({**config, 'file': '../a.safetensors'}))
    with pytest.raises(ValueError, match='not to be trusted'):
        read_adapter(version_0)
    del config['method']
    file.write_text(json.dumps(config))
    with pytest.raises(ValueError, match='without its `method`'):
        read_adapter(version_0)


def test_settings_are_read_and_never_run(tmp_path):
    marker = tmp_path / 'executed'
    text = f"""
default_scope = 'mmdet'
model = dict(
    type='MaskRCNN',
    backbone=dict(depths=(3, -3), {{}}, rate=0.1),
)
evil = __import__('os').mkdir({str(marker)!r})
data = dict(a=open('x'))
other = {{'a': [None, True], 'b': -1.5}}
""".replace(', {}', '')
    assert read_settings(text) == dict(
        default_scope='mmdet',
        model=dict(type='MaskRCNN', backbone=dict(depths=(3, -3), rate=0.1)),
        other=dict(a=[None, True], b=-1.5),
    )
    assert not marker.exists()
    assert read_settings('a = = 1') == {}
    assert read_settings('a = {**b}\nc: int = 1\nd.e = 2') == {}


@pytest.mark.parametrize(
    ('layout', 'key'),
    [
        ('fair', 'stages.0.1.pwconv1.weight'),
        ('mmpretrain', 'backbone.stages.0.1.depthwise_conv.weight'),
        ('timm', 'stages.0.blocks.1.conv_dw.weight'),
        ('timm', 'blocks.3.attn.qkv.weight'),
        (None, 'layer1.0.conv1.weight'),
    ],
)
def test_layouts(layout, key):
    assert layout_of(['x', key]) == layout


def test_values_become_json():
    value = {1: (1, float('inf')), 'a': {torch.float32}, 'b': [None, 0.5]}
    text = json.dumps(plain_json(value), allow_nan=False)
    assert json.loads(text) == {
        '1': [1, 'inf'],
        'a': ['torch.float32'],
        'b': [None, 0.5],
    }
