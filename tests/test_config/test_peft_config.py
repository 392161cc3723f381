"""Any config becomes a run with a frozen base, and the rest stays."""

import copy
import pickle
import re
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope

import mmflora
from mmflora.config import zoo_names
from mmflora.config.build import (
    build_model,
    read_config,
    register_toolkit,
    resolve_config,
)
from mmflora.config.peft import adapt_config, named_methods

ROOT = Path(__file__).resolve().parents[2]

MASK_RCNN = 'mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py'


def small(**settings):
    """Return a config with all that the flag touches."""
    model = dict(
        type='FasterRCNN',
        backbone=dict(
            type='ResNet',
            depth=18,
            frozen_stages=1,
            init_cfg=dict(type='Pretrained', checkpoint='r18.pth'),
        ),
    )
    return Config(
        dict(
            default_scope='mmdet',
            model=model,
            optim_wrapper=dict(
                type='OptimWrapper', optimizer=dict(type='SGD', lr=0.02)
            ),
            default_hooks=dict(
                checkpoint=dict(
                    type='CheckpointHook', interval=3, save_best='auto'
                )
            ),
        )
        | settings
    )


def test_backbone_is_wrapped_and_the_rest_stays():
    before = Config.fromfile(resolve_config(MASK_RCNN))
    again = copy.deepcopy(before)
    cfg, changes = adapt_config(before, 'flora-r16')
    assert before.to_dict() == again.to_dict()
    backbone = cfg.model.backbone
    assert backbone.type == 'mmflora.PEFTBackbone'
    assert backbone.peft.adapter.type == 'FLoRA'
    # Left out: EfficientNet writes 0 where others write -1.
    expected = again.model.backbone.to_dict()
    assert expected.pop('frozen_stages') == 1
    assert backbone.backbone.to_dict() == expected
    changed = {
        key
        for key in {*cfg, *again}
        if key not in again or cfg[key] != again[key]
    }
    assert changed == {
        'model',
        'optim_wrapper',
        'default_hooks',
        'custom_imports',
    }
    assert [change.place for change in changes][:2] == [
        'model.backbone',
        'model.backbone.frozen_stages',
    ]


def test_hook_and_constructor_keep_their_settings():
    cfg = mmflora.peft_config(small(), 'lora-r8')
    assert cfg.default_hooks.checkpoint == dict(
        type='mmflora.AdapterCheckpointHook', interval=3, save_best='auto'
    )
    wrapper = cfg.optim_wrapper
    assert wrapper.constructor == 'mmflora.PEFTOptimWrapperConstructor'
    assert wrapper.optimizer == dict(type='SGD', lr=0.02)


def test_dumped_config_reads_as_the_same(tmp_path):
    cfg = mmflora.peft_config(MASK_RCNN, 'flora-r16')
    cfg.dump(tmp_path / 'all.py')
    again = Config.fromfile(str(tmp_path / 'all.py'))
    assert again.to_dict() == cfg.to_dict()


@pytest.mark.parametrize(
    ('method', 'adapter'),
    [
        ('bitfit', dict(type='BitFit')),
        ("dict(type='FLoRA', rank=4)", dict(type='FLoRA', rank=4)),
        (dict(adapter=None), None),
    ],
    ids=str,
)
def test_methods_by_name_text_and_dict(method, adapter):
    cfg = mmflora.peft_config(small(), method)
    assert cfg.model.backbone.peft == dict(adapter=adapter)


@pytest.mark.parametrize(
    ('method', 'error', 'message'),
    [
        ('flora-r17', ValueError, "Unknown method 'flora-r17'.*flora-r16"),
        ('nowhere.py', FileNotFoundError, 'nowhere.py'),
        ("dict(type=__import__('os'))", ValueError, 'plain value'),
        (dict(type='FLoRa'), ValueError, "mean 'FLoRA'"),
        (dict(adapter=None, target='x'), TypeError, "mean 'targets'"),
        (3, TypeError, 'got 3'),
    ],
    ids=str,
)
def test_what_is_no_method_is_said(method, error, message):
    with pytest.raises(error, match=message):
        mmflora.peft_config(small(), method)


def test_last_layers_of_another_backbone_are_not_all_layers():
    with pytest.raises(ValueError, match='ResNet has no such') as caught:
        mmflora.peft_config(small(), 'last-layer')
    assert "'last-layer' trains stages" in str(caught.value)


@pytest.fixture(scope='module')
def weights(tmp_path_factory):
    """Weights of a ResNet-18 and of a detector around it."""
    folder = tmp_path_factory.mktemp('weights')
    register_toolkit(small())
    r18 = MODELS.build(dict(type='mmdet.ResNet', depth=18))
    state = {f'backbone.{k}': v for k, v in r18.state_dict().items()}
    torch.save(dict(state_dict=state), folder / 'whole.pth')
    torch.save(r18.state_dict(), folder / 'r18.pth')
    return folder


def backbone(weights, **settings):
    init = dict(type='Pretrained', checkpoint=str(weights / 'r18.pth'))
    return dict(type='ResNet', depth=18, init_cfg=init) | settings


def test_what_the_weights_lack_is_declared(weights):
    small_swin = dict(
        type='mmdet.SwinTransformer',
        embed_dims=8,
        depths=[1, 1, 1, 1],
        num_heads=[1, 1, 2, 2],
    )
    state = MODELS.build(small_swin).state_dict()
    published = {k: v for k, v in state.items() if not k.startswith('norm')}
    torch.save(published, weights / 'swin.pth')
    init = dict(type='Pretrained', checkpoint=str(weights / 'swin.pth'))
    model = dict(type='FasterRCNN', backbone=dict(small_swin, init_cfg=init))
    cfg = mmflora.peft_config(small(model=model), 'flora-r16')
    new = cfg.model.backbone.peft.new_params
    names = [k for k in state if any(re.fullmatch(p, k) for p in new)]
    assert names == [k for k in state if k.startswith('norm')]
    built = build_model(cfg, 'model.backbone')
    assert built.norm3.weight.requires_grad
    assert not built.stages[0].blocks[0].norm1.weight.requires_grad


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        (dict(depth=34), 'another model than the config.s ResNet'),
        (dict(depth=50), 'another model'),
        (dict(init_cfg=None), "'model.backbone' .*names no pretrained"),
    ],
    ids=str,
)
def test_weights_that_do_not_fit_are_refused(weights, settings, message):
    node = backbone(weights, **settings)
    with pytest.raises(ValueError, match=message):
        mmflora.peft_config(
            small(model=dict(type='FasterRCNN', backbone=node)), 'flora-r16'
        )


@pytest.mark.parametrize(
    ('model', 'place'),
    [
        (dict(type='SoftTeacher', detector=dict(type='X')), 'detector'),
        (
            dict(type='EncoderDecoder', backbone=dict(type='ICNet')),
            'backbone.backbone_cfg',
        ),
    ],
    ids=['wrapped', 'nested'],
)
def test_backbones_are_found_where_they_stand(weights, model, place):
    key = place.rpartition('.')[2]
    target = model.get('backbone', model)
    if key == 'detector':
        target, key, place = model['detector'], 'backbone', f'{place}.backbone'
    target[key] = backbone(weights)
    model['reid'] = dict(type='BaseReID', backbone=backbone(weights))
    cfg = mmflora.peft_config(small(model=model), 'flora-r16')
    node = cfg.model
    for name in place.split('.'):
        node = node[name]
    assert node.type == 'mmflora.PEFTBackbone'
    assert cfg.model.reid.backbone.type == 'ResNet'


def test_layers_are_counted_and_what_is_left_out_is_said(weights):
    model = dict(type='FasterRCNN', backbone=backbone(weights))
    cfg, changes = adapt_config(small(model=model), 'flora-r16')
    (line,) = [c for c in changes if c.place == 'model.backbone: layers']
    assert line.after == '20 adapted'
    method = dict(adapter=dict(type='FLoRA', rank=2), targets='conv9')
    with pytest.raises(ValueError, match="'model.backbone': .*'conv9'"):
        mmflora.peft_config(small(model=model), method)


def test_pretrained_of_a_segmentor_becomes_the_base(weights):
    node = backbone(weights)
    source = node.pop('init_cfg')['checkpoint']
    model = dict(type='EncoderDecoder', pretrained=source, backbone=node)
    cfg = mmflora.peft_config(small(model=model), 'flora-r16')
    assert cfg.model.pretrained is None
    assert cfg.model.backbone.backbone.init_cfg.checkpoint == source


def test_one_file_for_all_encoders_is_shared_out(weights):
    vit = dict(
        type='mmseg.VisionTransformer',
        img_size=(32, 32),
        embed_dims=8,
        num_heads=2,
        num_layers=3,
        with_cls_token=True,
    )
    register_toolkit(small(default_scope='mmseg'))
    state = MODELS.build(vit).state_dict()
    source = str(weights / 'clip.pth')
    torch.save({f'image_encoder.{k}': state[k] for k in state}, source)
    model = dict(
        type='MultimodalEncoderDecoder',
        pretrained=source,
        image_encoder=dict(vit, num_layers=2),
        text_encoder=dict(type='CLIPTextEncoder'),
    )
    cfg = small(model=model, default_scope='mmseg')
    cfg = mmflora.peft_config(cfg, 'flora-r16').model
    assert cfg.pretrained is None
    assert cfg.text_encoder.init_cfg.type == 'Pretrained_Part'
    unused = cfg.image_encoder.peft.unused_keys
    assert all(pattern.startswith('layers') for pattern in unused)
    built = build_model(
        Config(dict(default_scope='mmseg', model=cfg)), 'model.image_encoder'
    )
    stored = state['layers.1.attn.attn.in_proj_weight']
    assert torch.equal(built.layers[1].attn.attn.in_proj_weight, stored)


@pytest.fixture(scope='module')
def detector(tmp_path_factory):
    """A small detector's config and its checkpoint."""
    cfg = read_config(
        'mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py',
        {
            'model.backbone.depth': 18,
            'model.neck.in_channels': [64, 128, 256, 512],
            'model.neck.out_channels': 16,
            'model.rpn_head.in_channels': 16,
            'model.roi_head.bbox_roi_extractor.out_channels': 16,
            'model.roi_head.bbox_head.in_channels': 16,
            'model.roi_head.bbox_head.fc_out_channels': 16,
        },
    )
    path = tmp_path_factory.mktemp('detector') / 'whole.pth'
    torch.save(
        dict(state_dict=build_model(cfg, weights=False).state_dict()), path
    )
    return cfg, str(path)


@pytest.mark.parametrize('given', ['base', 'load_from', 'init_cfg'])
def test_a_whole_checkpoint_becomes_the_base(detector, given):
    cfg, path = copy.deepcopy(detector)
    cfg.model.roi_head.bbox_head.num_classes = 3
    if given == 'load_from':
        cfg.load_from = path
    elif given == 'init_cfg':
        cfg.model.init_cfg = dict(type='Pretrained', checkpoint=path)
    base = path if given == 'base' else None
    model = mmflora.peft_config(cfg, 'flora-r16', base=base).model
    assert model.type == 'mmflora.PEFTModel'
    assert list(model.parts) == ['backbone']
    assert 'frozen_stages' not in model.backbone
    assert any('fc_cls' in pattern for pattern in model.new_params)


def test_each_part_has_its_method(detector):
    cfg, path = detector
    parts = {'backbone': None, 'neck': 'lora-r8', 'rpn_.*': dict(adapter=None)}
    result = mmflora.peft_config(cfg, 'bitfit', parts, path)
    adapters = {
        name: own.adapter and own.adapter.type
        for name, own in result.model.parts.items()
    }
    assert adapters == dict(backbone='BitFit', neck='LoRA', rpn_head=None)
    with pytest.raises(ValueError, match='encoder.*backbone, neck'):
        mmflora.peft_config(cfg, 'bitfit', ['encoder'], path)
    nested = ['backbone', 'backbone.layer1']
    with pytest.raises(ValueError, match='lies inside'):
        mmflora.peft_config(cfg, 'bitfit', nested, path)
    with pytest.raises(ValueError, match='`parts` is empty'):
        mmflora.peft_config(cfg, 'bitfit', [], path)


def optimizer(weights, method='flora-r16', **settings):
    wrapper = dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.1))
    model = dict(type='FasterRCNN', backbone=backbone(weights))
    cfg = small(model=model, optim_wrapper=wrapper | settings)
    return mmflora.peft_config(cfg, method)


@pytest.mark.parametrize(
    ('method', 'expected'),
    [
        (
            'flora-r16',
            dict(
                custom_keys={
                    'backbone.norm': dict(decay_mult=0.0),
                    'query_embed': dict(lr_mult=0.1),
                },
                norm_decay_mult=0.0,
                allow_unmatched=True,
            ),
        ),
        (
            'full',
            dict(
                custom_keys={
                    'backbone': dict(lr_mult=0.1),
                    'backbone.norm': dict(lr_mult=0.1, decay_mult=0.0),
                    'query_embed': dict(lr_mult=0.1),
                },
                norm_decay_mult=0.0,
                layer_decay=0.9,
                allow_unmatched=True,
            ),
        ),
    ],
)
def test_multipliers_are_carried_over(weights, method, expected):
    given = dict(
        num_layers=12,
        layer_decay_rate=0.9,
        norm_decay_mult=0.0,
        bypass_duplicate=True,
        custom_keys={
            'backbone': dict(lr_mult=0.1),
            'backbone.norm': dict(lr_mult=0.1, decay_mult=0.0),
            'query_embed': dict(lr_mult=0.1, wd_mult=0.0),
        },
    )
    cfg = optimizer(weights, method, paramwise_cfg=given)
    assert cfg.optim_wrapper.paramwise_cfg == expected


def test_mixed_precision_moves_into_the_backbone(weights):
    cfg = optimizer(
        weights,
        type='AmpOptimWrapper',
        loss_scale='dynamic',
        clip_grad=dict(max_norm=35),
        accumulative_counts=2,
    )
    assert cfg.model.backbone.peft.autocast == 'bfloat16'
    assert cfg.optim_wrapper == dict(
        type='OptimWrapper',
        optimizer=dict(type='SGD', lr=0.1),
        clip_grad=dict(max_norm=35),
        accumulative_counts=2,
        constructor='mmflora.PEFTOptimWrapperConstructor',
    )


def test_the_base_may_be_a_file_of_either_kind(weights):
    node = backbone(weights, init_cfg=None)
    cfg = small(model=dict(type='FasterRCNN', backbone=node))
    own = mmflora.peft_config(
        cfg, 'bitfit', base=str(weights / 'r18.pth')
    ).model
    assert own.backbone.backbone.init_cfg.checkpoint.endswith('r18.pth')
    assert own.backbone.type == 'mmflora.PEFTBackbone'


def test_an_adapted_config_gets_another_method():
    before = 'configs/adalora/mask-rcnn_convnextv2-atto_adalora-r8_shapes.py'
    cfg = mmflora.peft_config(str(ROOT / before), 'lora-r8')
    adapter = cfg.model.backbone.peft.adapter
    assert adapter == dict(type='LoRA', rank=8, alpha=16, form='loralib')
    kinds = [hook.type for hook in cfg.custom_hooks]
    assert 'mmflora.AdaLoRAHook' not in kinds
    back = mmflora.peft_config(cfg, 'adalora-r8')
    assert back.custom_hooks[-1].type == 'mmflora.AdaLoRAHook'
    with pytest.raises(ValueError, match='has frozen parts already'):
        mmflora.peft_config(cfg, 'lora-r8', parts=['neck'])


def test_lazy_configs_dump_and_read_again(tmp_path, weights):
    path = tmp_path / 'lazy.py'
    path.write_text(
        'from mmengine.hooks import CheckpointHook\n'
        'from mmengine.optim import OptimWrapper\n'
        'from mmdet.models import FasterRCNN, ResNet\n'
        "default_scope = 'mmdet'\n"
        f'init = dict(type="Pretrained", checkpoint={str(weights)!r} + '
        "'/r18.pth')\n"
        'model = dict(type=FasterRCNN, backbone=dict(type=ResNet, depth=18, '
        'init_cfg=init))\n'
        'optim_wrapper = dict(type=OptimWrapper, optimizer=dict())\n'
        'default_hooks = dict(checkpoint=dict(type=CheckpointHook, '
        'interval=2))\n'
    )
    cfg = mmflora.peft_config(str(path), 'flora-r16')
    assert cfg.default_hooks.checkpoint == dict(
        type='mmflora.AdapterCheckpointHook', interval=2
    )
    cfg.dump(tmp_path / 'all.py')
    again = read_config(str(tmp_path / 'all.py'))
    assert again.to_dict() == cfg.to_dict()
    assert pickle.loads(pickle.dumps(cfg)).to_dict() == cfg.to_dict()
    assert build_model(again, 'model.backbone').depth == 18


@pytest.mark.parametrize(
    ('name', 'error', 'message'),
    [
        ('mmdet::dino/dino-4scale_r50_8xb2.py', FileNotFoundError, '12e_coco'),
        ('mmpose::x/y.py', ValueError, 'mmdet, mmseg, mmrotate, mmflora'),
    ],
)
def test_unknown_zoo_names(name, error, message):
    with pytest.raises(error, match=message):
        read_config(name)


def test_configs_of_a_clone_that_was_never_installed(tmp_path, monkeypatch):
    folder = tmp_path / 'mmflora/.mim/configs'
    monkeypatch.setattr(zoo_names, 'configs_of', lambda package: folder)
    monkeypatch.setattr(named_methods, 'FOLDER', folder / '_base_/methods')
    message = 'of mmflora are not installed.*force-reinstall mmflora`'
    with pytest.raises(FileNotFoundError, match=message):
        mmflora.peft_config(small(), 'flora-r16')
    (tmp_path / 'setup.py').touch()
    message = f'not installed.* -e {re.escape(str(tmp_path))}`'
    with pytest.raises(FileNotFoundError, match=message):
        read_config('mmflora::lora/mask-rcnn_convnextv2-l_lora-r8_coco')


def test_zoo_names_need_no_folder():
    name = 'dino-4scale_r50_8xb2-12e_coco'
    assert resolve_config(f'mmdet::{name}').endswith(f'dino/{name}.py')
    own = resolve_config('mmflora::lora/mask-rcnn_convnextv2-l_lora-r8_coco')
    assert read_config(own).model.backbone.peft.adapter.type == 'LoRA'


def test_the_callers_scope_stays():
    with DefaultScope.overwrite_default_scope('mmseg'):
        adapt_config(
            'mmdet::retinanet/retinanet_r18_fpn_1x_coco.py',
            'flora-r16',
            weights=False,
        )
        now = DefaultScope.get_current_instance()
        assert now.scope_name == 'mmseg'
