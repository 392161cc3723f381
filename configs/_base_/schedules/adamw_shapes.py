# A short run on the generated data, counted in epochs.
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=5, val_interval=1)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')

param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=20),
    dict(
        type='CosineAnnealingLR',
        begin=0,
        end=5,
        eta_min=1e-5,
        by_epoch=True,
        convert_to_iter_based=True,
    ),
]

optim_wrapper = dict(
    type='OptimWrapper',
    constructor='mmflora.PEFTOptimWrapperConstructor',
    # So short a run wants faster adapters than heads.
    paramwise_cfg=dict(
        norm_decay_mult=0.0, bias_decay_mult=0.0, adapter_lr_mult=4.0
    ),
    optimizer=dict(
        type='AdamW', lr=1e-3, betas=(0.9, 0.999), weight_decay=0.05
    ),
    clip_grad=dict(max_norm=5, norm_type=2),
)

auto_scale_lr = dict(enable=False, base_batch_size=8)
randomness = dict(seed=0)
