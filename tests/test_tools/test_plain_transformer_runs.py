"""A detector on a plain transformer trains, tests and leaves by the tools."""

import sys

import pytest
import timm
import torch

from .conftest import CONFIGS
from .test_runs import EVERY, losses

CONFIG = f"""
_base_ = r'{CONFIGS}/lora/mask-rcnn_convnextv2-atto_lora-r8_shapes.py'

model = dict(
    backbone=dict(
        _delete_=True,
        type='mmflora.PEFTBackbone',
        backbone=dict(
            type='mmflora.TimmBackbone',
            model_name='vit_small_patch16_dinov3',
            embed_dim=32,
            depth=3,
            num_heads=2,
            out_indices=[2],
            final_norm='last',
            with_cp=True,
            attention_window=3,
            global_blocks=[2],
            init_cfg=dict(type='Pretrained', checkpoint='dinov3.pth'),
        ),
        peft=dict(adapter=dict(type='LoRA', rank=4), lean=True),
    ),
    neck=dict(
        _delete_=True,
        type='mmflora.SimplePyramid',
        in_channels=32,
        out_channels=64,
        num_outs=5,
    ),
)
"""
# In a folder with nothing of mmflora but the merged files.
STOCK = """
import sys
from mmdet.apis import init_detector
from mmdet.utils import register_all_modules
model = init_detector('plain/plain.py', 'plain/merged.pth', device='cpu')
assert type(model.neck).__name__ == 'SimplePyramid'
assert type(model.neck).__module__ == 'merged_pyramid'
assert not any(name.split('.')[0] == 'mmflora' for name in sys.modules)
print(type(model.backbone).__mro__[1].__module__)
"""


@pytest.mark.slow
def test_detector_on_a_plain_transformer(workspace):
    folder = workspace.folder
    torch.manual_seed(0)
    net = timm.create_model(
        'vit_small_patch16_dinov3', embed_dim=32, depth=3, num_heads=2
    )
    torch.save(net.state_dict(), folder / 'dinov3.pth')
    config = folder / 'plain_transformer.py'
    config.write_text(CONFIG)
    work, out = folder / 'plain_transformer', folder / 'plain'
    (trained, tested, merged) = workspace.run_tools(
        ('train.py', config, '--work-dir', work, '--cfg-options', EVERY)
        + ('train_cfg.max_epochs=1', 'param_scheduler=[]'),
        ('test.py', config, work / 'epoch_1.pth'),
        ('merge.py', config, work / 'epoch_1.pth')
        + ('--out', out / 'merged.pth', '--out-config', out / 'plain.py'),
    )
    assert losses(trained)
    assert 'bbox_mAP' in tested
    checkpoint = torch.load(work / 'epoch_1.pth', weights_only=False)
    held = {
        key.split('.')[0] if '.adapter.' not in key else 'adapters'
        for key in checkpoint['state_dict']
        if not key.endswith('base_record.info')
    }
    assert held == {'adapters', 'neck', 'rpn_head', 'roi_head'}
    assert {path.name for path in out.iterdir()} == {
        'merged.pth',
        'merged_backbone.py',
        'merged_intermediates.py',
        'merged_pyramid.py',
        'merged_windows.py',
        'plain.py',
    }

    told = workspace.run(sys.executable, '-c', STOCK)
    assert told.splitlines()[-1] == 'merged_intermediates'
