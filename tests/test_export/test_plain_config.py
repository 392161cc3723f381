"""Configs without mmflora."""

import pytest
from mmengine.config import Config

from mmflora.export import plain_config

from .conftest import CONFIGS, ROOT

LARGE = sorted(ROOT.glob('configs/flora/*convnextv2-l_flora-r16*.py'))
RESNET = dict(
    type='mmdet.ResNet',
    depth=50,
    frozen_stages=-1,
    init_cfg=dict(type='Pretrained', checkpoint='torchvision://resnet50'),
)
ADAPTED = dict(
    type='mmflora.PEFTBackbone',
    backbone=RESNET,
    adapter=dict(type='FLoRA'),
    autocast='bfloat16',
)


def with_backbone(backbone):
    cfg = Config.fromfile(CONFIGS['mmdet'])
    cfg.model.backbone = backbone
    return cfg


@pytest.mark.parametrize(
    'config', [*CONFIGS.values(), *LARGE], ids=lambda path: path.stem
)
def test_nothing_of_mmflora_is_left(config, tmp_path):
    cfg = Config.fromfile(config)
    before = cfg.pretty_text
    plain = plain_config(cfg)
    assert cfg.pretty_text == before
    path = tmp_path / 'plain.py'
    files = plain.write(path)
    assert [file.name for file in files] == ['merged_backbone.py', 'plain.py']
    for file in files:
        assert 'mmflora' not in file.read_text()
    read = Config.fromfile(path)
    assert read.model.backbone.type == 'TimmConvNeXt'
    assert read.model.backbone.arch == cfg.model.backbone.arch
    for key in ('neck', 'roi_head', 'decode_head', 'test_cfg'):
        assert read.model.get(key) == cfg.model.get(key), key
    assert read.train_dataloader == cfg.train_dataloader
    assert read.param_scheduler == cfg.param_scheduler
    assert read.optim_wrapper.optimizer == cfg.optim_wrapper.optimizer
    assert read.optim_wrapper.clip_grad == cfg.optim_wrapper.clip_grad
    assert 'constructor' not in read.optim_wrapper
    assert read.default_hooks.checkpoint.type == 'CheckpointHook'
    assert read.default_hooks.checkpoint.interval == (
        cfg.default_hooks.checkpoint.interval
    )


def test_roles_leave_the_optimizer_and_stock_multipliers_stay():
    plain = plain_config(Config.fromfile(CONFIGS['mmdet'])).cfg
    assert plain.optim_wrapper.paramwise_cfg == dict(
        norm_decay_mult=0.0, bias_decay_mult=0.0
    )


def test_plain_metric():
    plain = plain_config(Config.fromfile(CONFIGS['mmrotate'])).cfg
    assert plain.val_evaluator.type == 'DOTAMetric'


def test_adapted_backbone_becomes_the_stock_one(tmp_path):
    plain = plain_config(with_backbone(ADAPTED))
    assert plain.write(tmp_path / 'plain.py') == [tmp_path / 'plain.py']
    assert Config.fromfile(tmp_path / 'plain.py').model.backbone == dict(
        RESNET, init_cfg=None
    )
    assert 'custom_imports' not in plain.cfg
    (remark,) = plain.remarks
    assert "autocast='bfloat16'" in remark


def test_timm_backbone_keeps_its_arguments():
    backbone = dict(
        type='mmflora.TimmBackbone',
        model_name='resnet18',
        out_indices=(1, 2, 3, 4),
        drop_path_rate=0.1,
        init_cfg=dict(type='Pretrained', checkpoint='timm://resnet18.a1_in1k'),
    )
    plain = plain_config(with_backbone(dict(ADAPTED, backbone=backbone))).cfg
    assert plain.model.backbone == dict(
        type='TimmIntermediates',
        model_name='resnet18',
        out_indices=(1, 2, 3, 4),
        drop_path_rate=0.1,
    )


def test_own_imports_and_hooks_stay():
    cfg = Config.fromfile(CONFIGS['mmdet'])
    cfg.custom_imports.imports += ['json', 'mmflora.evaluation']
    cfg.custom_hooks += [dict(type='EmptyCacheHook')]
    cfg.model.neck.init_cfg = dict(type='Xavier', layer='Conv2d')
    plain = plain_config(cfg).cfg
    assert plain.custom_imports.imports == ['json', 'merged_backbone']
    assert plain.custom_hooks == [dict(type='EmptyCacheHook')]
    assert plain.model.neck.init_cfg.type == 'Xavier'
    again = plain_config(plain)
    assert again.cfg.pretty_text == plain.pretty_text
    assert again.modules == ['merged_backbone.py']


def test_what_has_no_counterpart_is_named():
    cfg = with_backbone(dict(type='mmflora.Unheard', depth=3))
    with pytest.raises(ValueError, match=r'model\.backbone\.type.*Unheard'):
        plain_config(cfg)
