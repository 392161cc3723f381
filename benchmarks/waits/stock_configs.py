"""Small stock configs of the three zoos, over weights in published formats."""

from pathlib import Path

import torch
from mmengine.config import Config

from mmflora.config.build import build_model, read_config

CONFIGS = Path(__file__).resolve().parents[2] / 'configs'
LOADERS = [
    f'{stage}_{kind}'
    for stage in ('train', 'val', 'test')
    for kind in ('dataloader', 'evaluator')
    if (stage, kind) != ('train', 'evaluator')
]
R18 = dict(depth=18, init_cfg=dict(type='Pretrained', checkpoint='r18.pth'))
NECK = dict(in_channels=[64, 128, 256, 512])
CASES = {
    'mmdet': (
        'mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py',
        'shapes_coco.py',
        dict(
            backbone=R18,
            neck=NECK,
            roi_head=dict(bbox_head=dict(num_classes=6)),
        ),
    ),
    'mmrotate': (
        'mmrotate::oriented_rcnn/oriented-rcnn-le90_r50_fpn_1x_dota.py',
        'shapes_dota.py',
        dict(
            backbone=R18,
            neck=NECK,
            roi_head=dict(bbox_head=dict(num_classes=6)),
        ),
    ),
    'mmseg': (
        'mmseg::pspnet/pspnet_r18-d8_4xb2-80k_cityscapes-512x1024.py',
        'shapes_ade20k_128x128.py',
        dict(
            pretrained='r18_v1c.pth',
            data_preprocessor=dict(size=(128, 128)),
            decode_head=dict(num_classes=7),
            auxiliary_head=dict(num_classes=7),
        ),
    ),
}


def write_case(name, folder):
    """Write a stock config of a toolkit on the shapes, and its weights.

    Returns:
        The config's path.
    """
    zoo, data, model = CASES[name]
    cfg = read_config(zoo)
    shapes = Config.fromfile(str(CONFIGS / '_base_/datasets' / data))
    for key in LOADERS:
        cfg[key] = shapes[key]
        if name == 'mmdet' and key.endswith('evaluator'):
            cfg[key].metric = 'bbox'
    # What the toolkits' functions for inference read.
    cfg.test_pipeline = cfg.test_dataloader.dataset.pipeline
    cfg.merge_from_dict(dict(model=model))
    cfg.train_dataloader.update(batch_size=2, num_workers=0)
    for key in LOADERS:
        if key.endswith('loader'):
            cfg[key].update(num_workers=0, persistent_workers=False)
    write_weights(cfg, folder)
    path = folder / f'{name}_r18.py'
    cfg.dump(path)
    return path


def write_weights(cfg, folder):
    """Write the backbone's weights as they are published, with classifier."""
    torch.manual_seed(0)
    backbone = build_model(cfg, 'model.backbone', weights=False)
    state = dict(backbone.state_dict())
    state['fc.weight'], state['fc.bias'] = torch.zeros(9, 512), torch.zeros(9)
    init = cfg.model.backbone.get('init_cfg') or {}
    source = cfg.model.get('pretrained') or init['checkpoint']
    torch.save(state, folder / source)
