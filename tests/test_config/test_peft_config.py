"""Any config becomes a run with a frozen base, and the rest stays."""

import copy

import pytest
from mmengine.config import Config

import mmflora
from mmflora.config.peft import adapt_config

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
    before = Config.fromfile(mmflora.config.build.resolve_config(MASK_RCNN))
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
