# 12 epochs of AdamW at 1e-4 for 32 images: the paper's recipe for COCO, with
# MMDetection's warm-up and steps.
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=12, val_interval=1)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')

param_scheduler = [
    dict(
        type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=500
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
    # As ConvNeXt is fine-tuned: no decay of norms and biases.
    paramwise_cfg=dict(norm_decay_mult=0.0, bias_decay_mult=0.0),
    optimizer=dict(
        type='AdamW', lr=1e-4, betas=(0.9, 0.999), weight_decay=0.05
    ),
    # Against spikes only: the size of a step of AdamW is not that of the norm.
    clip_grad=dict(max_norm=35, norm_type=2),
)

# `--auto-scale-lr` scales the rate to the real number of images per step.
auto_scale_lr = dict(enable=False, base_batch_size=32)
