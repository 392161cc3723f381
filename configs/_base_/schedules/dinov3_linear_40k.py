# 40k iterations of AdamW at 1e-3 for 16 images, a warm-up of 1,500 and a
# cosine to zero, nothing clipped: how DINOv3 trains its linear heads on ADE20K
# (dinov3/eval/segmentation/configs/config-ade20k-linear-training.yaml of
# https://github.com/facebookresearch/dinov3).
train_cfg = dict(type='IterBasedTrainLoop', max_iters=40000, val_interval=5000)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')

param_scheduler = [
    dict(
        type='LinearLR', start_factor=1e-6, by_epoch=False, begin=0, end=1500
    ),
    dict(
        type='CosineAnnealingLR',
        begin=1500,
        end=40000,
        eta_min=0.0,
        by_epoch=False,
    ),
]

optim_wrapper = dict(
    type='OptimWrapper',
    constructor='mmflora.PEFTOptimWrapperConstructor',
    # The rate is that of a linear layer over frozen features. Adapters train
    # at 1e-4, as the paper of FLoRA has it.
    paramwise_cfg=dict(adapter_lr_mult=0.1),
    optimizer=dict(
        type='AdamW', lr=1e-3, betas=(0.9, 0.999), weight_decay=1e-3
    ),
)

auto_scale_lr = dict(enable=False, base_batch_size=16)
