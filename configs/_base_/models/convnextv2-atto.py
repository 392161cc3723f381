# What the small twins of the large models share: the smallest ConvNeXt-V2,
# narrow heads for six classes and few proposals, so that an iteration on a CPU
# takes a fraction of a second.
atto = dict(
    backbone=dict(
        arch='convnextv2_atto',
        drop_path_rate=0.0,
        autocast=None,
        init_cfg=dict(
            # Written by the config of configs/full that trains on the source
            # domain of the generated data.
            checkpoint='work_dirs/shapes_base/base.pth',
            prefix='backbone.',
        ),
    ),
    weights_help=(
        'Train it with `python tools/train.py '
        'configs/full/mask-rcnn_convnextv2-atto_full_shapes-source.py`.'
    ),
    # Of the detectors.
    neck=dict(in_channels=[40, 80, 160, 320], out_channels=64),
    rpn_head=dict(
        in_channels=64,
        feat_channels=64,
        # Shapes of 15 to 110 pixels in images of 128.
        anchor_generator=dict(scales=[4]),
    ),
    roi_extractor=dict(out_channels=64),
    bbox_head=dict(
        in_channels=64,
        fc_out_channels=256,
        num_classes=6,
        # One box for all classes: every object teaches it.
        reg_class_agnostic=True,
    ),
    train_cfg=dict(
        rpn=dict(sampler=dict(num=64)),
        rpn_proposal=dict(nms_pre=200, max_per_img=100),
        rcnn=dict(sampler=dict(num=32)),
    ),
    test_cfg=dict(
        rpn=dict(nms_pre=200, max_per_img=100),
        rcnn=dict(max_per_img=20),
    ),
)
