"""Configs are read, and models built from them, in one place."""

import re

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope

from mmflora.config.build import (
    build_model,
    read_config,
    register_toolkit,
    resolve_config,
)
from mmflora.config.walk import frozen_parts

FLORA = dict(type='FLoRA', rank=2)
CFG = Config(
    dict(
        default_scope='mmseg',
        model=dict(
            type='EncoderDecoder',
            backbone=dict(
                type='mmflora.FLoRAConvNeXt',
                arch='convnextv2_atto',
                autocast='bfloat16',
                init_cfg=dict(type='Pretrained', checkpoint='nix.pth'),
            ),
            decode_head=dict(
                type='FCNHead',
                in_channels=320,
                channels=8,
                num_classes=3,
                in_index=3,
                norm_cfg=dict(type='SyncBN'),
            ),
        ),
    )
)


@pytest.mark.parametrize('scope', [None, 'mmflora', 'mmpose'])
def test_refuses_other_default_scopes(scope):
    with pytest.raises(ValueError, match='mmdet, mmrotate, mmseg'):
        register_toolkit(Config(dict(default_scope=scope)))


def test_missing_config_names_the_nearest(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'configs/flora').mkdir(parents=True)
    near = tmp_path / 'configs/flora/mask-rcnn_flora-r16_coco.py'
    near.touch()
    (tmp_path / 'configs/_base_').mkdir()
    (tmp_path / 'configs/_base_/mask-rcnn_flora-r16_coc.py').touch()
    with pytest.raises(FileNotFoundError) as caught:
        resolve_config('configs/flora/mask-rcnn_flora-r16_coc.py')
    text = str(caught.value)
    assert "'configs/flora/mask-rcnn_flora-r16_coc.py'" in text
    assert re.search(r'\n  configs/flora/mask-rcnn_flora-r16_coco\.py', text)
    assert '\n  configs/_base_' not in text
    relative = str(near.relative_to(tmp_path))
    assert resolve_config(relative) == relative


def test_reads_a_config_once_and_changes_it(tmp_path):
    path = tmp_path / 'small.py'
    path.write_text('a = dict(b=1)')
    cfg = read_config(str(path), {'a.b': 2})
    assert cfg.a.b == 2
    assert read_config(cfg) is cfg
    path.write_text('a = dict(')
    with pytest.raises(ValueError, match=r"small\.py' cannot be read"):
        read_config(str(path))


def test_finds_frozen_parts_anywhere():
    plain = dict(type='mmflora.ConvNeXt')
    adapted = dict(type='mmflora.PEFTConvNeXt', peft=dict(adapter=FLORA))
    whole = dict(
        type='mmflora.PEFTModel',
        model_type='DINO',
        parts={
            'encoder': dict(adapter=FLORA),
            'head.decoder': dict(adapter=FLORA, lean=True),
            # As --cfg-options writes it.
            'head': {'decoder': {'adapter': {'rank': 4}}},
        },
    )
    model = dict(teacher=dict(backbone=plain), extra=[adapted], student=whole)
    cfg = Config(dict(model=model))
    parts = {part.place: part for part in frozen_parts(cfg)}
    assert {place: part.module for place, part in parts.items()} == {
        'model.extra.0': 'model.extra.0',
        'model.student.parts.encoder': 'model.student.encoder',
        'model.student.parts.head.decoder': 'model.student.head.decoder',
    }
    for part in parts.values():
        part.change(norm_eval=False)
    wanted = [dict(adapter=FLORA, norm_eval=False)] * 2 + [
        dict(adapter=dict(FLORA, rank=4), lean=True, norm_eval=False)
    ]
    assert [part.settings for part in frozen_parts(cfg)] == wanted
    assert cfg.model.student.parts.encoder.norm_eval is False


def test_builds_what_a_caller_needs():
    with pytest.raises(FileNotFoundError, match=r'nix\.pth'):
        build_model(CFG)
    before = CFG.pretty_text
    with DefaultScope.overwrite_default_scope('mmdet'):
        model = build_model(
            CFG, weights=False, autocast=False, sync_bn=False, device='meta'
        )
        assert DefaultScope.get_current_instance().scope_name == 'mmseg'
    assert model.cfg is CFG
    assert CFG.pretty_text == before
    parameter = next(model.parameters())
    assert parameter.is_meta
    kinds = {type(module) for module in model.modules()}
    assert torch.nn.BatchNorm2d in kinds
    assert torch.nn.SyncBatchNorm not in kinds
    head = build_model(CFG, 'model.decode_head', device='meta')
    assert type(head).__name__ == 'FCNHead'
    with pytest.raises(ValueError, match='no `model`'):
        build_model(Config(dict(default_scope='mmdet')))


def test_transformers_are_built_on_the_meta_device():
    swin = dict(
        type='mmdet.SwinTransformer',
        embed_dims=24,
        depths=(1, 1, 1, 1),
        num_heads=(1, 1, 2, 2),
        drop_path_rate=0.2,
    )
    cfg = Config(dict(default_scope='mmdet', model=dict(backbone=swin)))
    model = build_model(cfg, 'model.backbone', device='meta')
    assert {tensor.device.type for tensor in model.parameters()} == {'meta'}
    last = model.stages[3].blocks[0].attn.drop
    assert last.drop_prob == pytest.approx(0.2)


@pytest.mark.parametrize('place', ['backbone', 'peft'])
def test_autocast_is_left_out_wherever_it_stands(place):
    cfg = Config(CFG.to_dict())
    backbone = cfg.model.backbone
    backbone.pop('autocast')
    backbone.peft = dict(lean=True)
    (backbone if place == 'backbone' else backbone.peft).autocast = 'bfloat16'
    for autocast in (True, False):
        built = build_model(
            cfg,
            'model.backbone',
            weights=False,
            autocast=autocast,
            device='meta',
        )
        hooks = built._forward_pre_hooks.values()
        assert ('enter' in [hook.__name__ for hook in hooks]) is autocast


def test_a_config_whose_imports_are_missing(tmp_path, monkeypatch):
    path = tmp_path / 'my_config.py'
    path.write_text("custom_imports = dict(imports=['my_own.layers'])\n")
    with pytest.raises(ValueError, match='PYTHONPATH=FOLDER') as caught:
        read_config(str(path))
    assert str(path) in str(caught.value)
    assert "No module named 'my_own'" in str(caught.value)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / 'my_own').mkdir()
    (tmp_path / 'my_own/layers.py').write_text('import its_need\n')
    with pytest.raises(ValueError, match="No module named 'its_need'"):
        read_config(str(path))


@pytest.mark.parametrize('device', ['cpu', 'meta'])
def test_a_type_that_nothing_registers(device):
    cfg = Config(CFG.to_dict())
    cfg.model.decode_head.type = 'NoSuchHead'
    with pytest.raises(ValueError, match='NoSuchHead is not in') as caught:
        build_model(cfg, weights=False, device=device)
    text = str(caught.value)
    assert text.startswith("'model' (EncoderDecoder) cannot be built as the ")
    assert 'custom_imports' in text
