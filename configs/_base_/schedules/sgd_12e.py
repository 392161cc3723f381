# 12 epochs of SGD at 5e-3 for 16 images: the paper's recipe for DOTA, with
# MMRotate's warm-up, steps and clipping.
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=12, val_interval=1)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')

param_scheduler = [
    dict(
        type='LinearLR',
        start_factor=1.0 / 3,
        by_epoch=False,
        begin=0,
        end=500,
    ),
    dict(
        type='MultiStepLR',
        begin=0,
        end=12,
        by_epoch=True,
        milestones=[8, 11],
        gamma=0.1,
    ),
]

optim_wrapper = dict(
    type='OptimWrapper',
    constructor='mmflora.PEFTOptimWrapperConstructor',
    paramwise_cfg=dict(),
    optimizer=dict(type='SGD', lr=5e-3, momentum=0.9, weight_decay=1e-4),
    clip_grad=dict(max_norm=35, norm_type=2),
)

# `--auto-scale-lr` scales the rate to the real number of images per step.
auto_scale_lr = dict(enable=False, base_batch_size=16)
