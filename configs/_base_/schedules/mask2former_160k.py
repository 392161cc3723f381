# 160k iterations of AdamW at 1e-4 for 16 images, a fall of power 0.9 and
# gradients clipped to 0.01: how Mask2Former is trained on ADE20K
# (MMSegmentation's
# mask2former_swin-l-in22k-384x384-pre_8xb2-160k_ade20k-640x640.py).
train_cfg = dict(
    type='IterBasedTrainLoop', max_iters=160000, val_interval=16000
)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')

param_scheduler = [
    dict(
        type='PolyLR',
        power=0.9,
        begin=0,
        end=160000,
        eta_min=0.0,
        by_epoch=False,
    ),
]

optim_wrapper = dict(
    type='OptimWrapper',
    constructor='mmflora.PEFTOptimWrapperConstructor',
    paramwise_cfg=dict(
        norm_decay_mult=0.0,
        custom_keys={
            'query_embed': dict(decay_mult=0.0),
            'query_feat': dict(decay_mult=0.0),
            'level_embed': dict(decay_mult=0.0),
        },
    ),
    optimizer=dict(
        type='AdamW', lr=1e-4, betas=(0.9, 0.999), weight_decay=0.05
    ),
    clip_grad=dict(max_norm=0.01, norm_type=2),
)

# `--auto-scale-lr` scales the rate to the real number of images per step.
auto_scale_lr = dict(enable=False, base_batch_size=16)
