# What the tasks share: EfficientNet-Lite0, trained on ImageNet, with narrow
# necks and heads, and a short schedule.
lite0 = dict(
    backbone=dict(
        _delete_=True,
        type='mmflora.TimmBackbone',
        model_name='tf_efficientnet_lite0',
        out_indices=[1, 2, 3, 4],
        init_cfg=dict(
            type='Pretrained',
            checkpoint='data/study/tf_efficientnet_lite0.pth',
        ),
    ),
    channels=[24, 40, 112, 320],
    pixels=dict(
        mean=[127.5, 127.5, 127.5], std=[127.5, 127.5, 127.5], bgr_to_rgb=True
    ),
    neck=dict(in_channels=[24, 40, 112, 320], out_channels=64),
    rpn_head=dict(
        in_channels=64,
        feat_channels=64,
        anchor_generator=dict(scales=[4]),
    ),
    roi_extractor=dict(out_channels=64),
    bbox_head=dict(
        in_channels=64, fc_out_channels=256, reg_class_agnostic=True
    ),
    train_cfg=dict(
        rpn=dict(sampler=dict(num=64)),
        rpn_proposal=dict(nms_pre=300, max_per_img=150),
        rcnn=dict(sampler=dict(num=64)),
    ),
    test_cfg=dict(rpn=dict(nms_pre=300, max_per_img=150)),
)
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(
        type='AdamW', lr=1e-3, betas=(0.9, 0.999), weight_decay=0.05
    ),
    paramwise_cfg=dict(norm_decay_mult=0.0, bias_decay_mult=0.0),
    clip_grad=dict(max_norm=5, norm_type=2),
)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
randomness = dict(seed=0)
