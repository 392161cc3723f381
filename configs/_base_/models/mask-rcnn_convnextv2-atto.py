# The small twin of mask-rcnn_convnextv2-l.py.
_base_ = ['./mask-rcnn_convnextv2-l.py', './convnextv2-atto.py']

base_weights = _base_.atto.backbone.init_cfg.checkpoint
weights_help = _base_.atto.weights_help

model = dict(
    # Channels-last memory: a sixth faster on a CPU.
    backbone=dict(_base_.atto.backbone, channels_last=True),
    neck=_base_.atto.neck,
    rpn_head=_base_.atto.rpn_head,
    roi_head=dict(
        bbox_roi_extractor=_base_.atto.roi_extractor,
        bbox_head=_base_.atto.bbox_head,
        mask_roi_extractor=_base_.atto.roi_extractor,
        mask_head=dict(
            num_convs=2,
            in_channels=64,
            conv_out_channels=64,
            num_classes=6,
            class_agnostic=True,
        ),
    ),
    train_cfg=_base_.atto.train_cfg,
    test_cfg=_base_.atto.test_cfg,
)
