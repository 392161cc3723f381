# The small twin of oriented-rcnn-le90_dinov3-vit-l_dota.py.
_base_ = [
    '../models/oriented-rcnn-le90_vit.py',
    '../backbones/dinov3-vit-tiny.py',
    '../datasets/shapes_dota.py',
    '../schedules/adamw_shapes.py',
    '../default_runtime_mmrotate.py',
]

model = dict(
    backbone=dict(
        backbone=dict(_base_.vit, final_norm='last', drop_path_rate=0.0),
        peft=dict(autocast=None),
    ),
    neck=dict(in_channels=64, out_channels=64),
    rpn_head=_base_.atto.rpn_head,
    roi_head=dict(
        bbox_roi_extractor=_base_.atto.roi_extractor,
        bbox_head=_base_.atto.bbox_head,
    ),
    train_cfg=_base_.atto.train_cfg,
    test_cfg=dict(
        _base_.atto.test_cfg,
        rcnn=dict(nms_pre=200, max_per_img=20),
    ),
)
