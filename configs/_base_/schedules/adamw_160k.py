# 160k iterations of AdamW at 1e-4 for 16 images: the paper's recipe for
# ADE20K, with the warm-up and the linear decay of MMSegmentation's ConvNeXt.
train_cfg = dict(
    type='IterBasedTrainLoop', max_iters=160000, val_interval=16000
)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')

param_scheduler = [
    dict(
        type='LinearLR', start_factor=1e-6, by_epoch=False, begin=0, end=1500
    ),
    dict(
        type='PolyLR',
        power=1.0,
        begin=1500,
        end=160000,
        eta_min=0.0,
        by_epoch=False,
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
auto_scale_lr = dict(enable=False, base_batch_size=16)
