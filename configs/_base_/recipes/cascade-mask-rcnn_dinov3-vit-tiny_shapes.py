# The small twin of cascade-mask-rcnn_dinov3-vit-l_coco-1024x1024.py.
_base_ = [
    '../models/cascade-mask-rcnn_vit.py',
    '../backbones/dinov3-vit-tiny.py',
    '../datasets/shapes_coco.py',
    '../schedules/adamw_shapes.py',
    '../default_runtime_mmdet.py',
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
        bbox_head=[
            dict(head, **_base_.atto.bbox_head)
            for head in _base_.model.roi_head.bbox_head
        ],
        mask_roi_extractor=_base_.atto.roi_extractor,
        mask_head=dict(
            num_convs=2,
            in_channels=64,
            conv_out_channels=64,
            num_classes=6,
            class_agnostic=True,
        ),
    ),
    train_cfg=dict(
        rpn=_base_.atto.train_cfg.rpn,
        rpn_proposal=_base_.atto.train_cfg.rpn_proposal,
    ),
    test_cfg=_base_.atto.test_cfg,
)
