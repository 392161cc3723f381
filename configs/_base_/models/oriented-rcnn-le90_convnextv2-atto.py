# The small twin of oriented-rcnn-le90_convnextv2-l.py.
_base_ = ['./oriented-rcnn-le90_convnextv2-l.py', './convnextv2-atto.py']

base_weights = _base_.atto.backbone.init_cfg.checkpoint
weights_help = _base_.atto.weights_help

model = dict(
    backbone=_base_.atto.backbone,
    neck=_base_.atto.neck,
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
