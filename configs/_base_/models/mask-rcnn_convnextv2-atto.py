# The small twin of mask-rcnn_convnextv2-l.py: six classes, narrow heads and
# few proposals, so that an iteration on a CPU takes a fraction of a second.
_base_ = './mask-rcnn_convnextv2-l.py'

# What the config of configs/full writes when it is trained on the source
# domain of the generated data.
base_weights = 'work_dirs/shapes_base/base.pth'
weights_help = (
    'Train it with `python tools/train.py '
    'configs/full/mask-rcnn_convnextv2-atto_full_shapes-source.py`.'
)

model = dict(
    backbone=dict(
        arch='convnextv2_atto',
        drop_path_rate=0.0,
        # A sixth faster on a CPU.
        channels_last=True,
        init_cfg=dict(checkpoint=base_weights, prefix='backbone.'),
    ),
    neck=dict(in_channels=[40, 80, 160, 320], out_channels=64),
    rpn_head=dict(
        in_channels=64,
        feat_channels=64,
        # Shapes of 10 to 80 pixels in images of 128.
        anchor_generator=dict(scales=[4]),
    ),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=64),
        bbox_head=dict(in_channels=64, fc_out_channels=256, num_classes=6),
        mask_roi_extractor=dict(out_channels=64),
        mask_head=dict(
            num_convs=2,
            in_channels=64,
            conv_out_channels=64,
            num_classes=6,
        ),
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
