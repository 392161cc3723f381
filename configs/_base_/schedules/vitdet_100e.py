# 100 epochs of AdamW at 1e-4 for 64 images: how ViTDet trains ViT-B and ViT-L
# on COCO (Li et al., 2022, arXiv:2203.16527; detectron2's
# projects/ViTDet/configs/COCO/mask_rcnn_vitdet_b_100ep.py, whose steps are
# after 88.9 and 96.3 % of the run).
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=100, val_interval=5)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')

param_scheduler = [
    dict(
        type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=250
    ),
    dict(
        type='MultiStepLR',
        begin=0,
        end=100,
        by_epoch=True,
        milestones=[89, 96],
        gamma=0.1,
    ),
]

optim_wrapper = dict(
    type='OptimWrapper',
    constructor='mmflora.PEFTOptimWrapperConstructor',
    paramwise_cfg=dict(norm_decay_mult=0.0),
    optimizer=dict(
        type='AdamW', lr=1e-4, betas=(0.9, 0.999), weight_decay=0.1
    ),
)

# `--auto-scale-lr` scales the rate to the real number of images per step.
auto_scale_lr = dict(enable=False, base_batch_size=64)
