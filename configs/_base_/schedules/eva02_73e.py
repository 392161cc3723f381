# AdamW at 6e-5 for 144 images, steps after 80 and 90 % of 60,000 iterations,
# which are 73 epochs: how EVA-02-L is trained on COCO (EVA-02/det/projects/
# ViTDet/configs/eva2_mim_to_coco/
# eva2_coco_cascade_mask_rcnn_vitdet_l_4attn_1024_lrd0p8.py of
# https://github.com/baaivision/EVA).
_base_ = './vitdet_100e.py'

train_cfg = dict(max_epochs=73)

param_scheduler = [
    dict(
        type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=1000
    ),
    dict(
        type='MultiStepLR',
        begin=0,
        end=73,
        by_epoch=True,
        milestones=[58, 66],
        gamma=0.1,
    ),
]

optim_wrapper = dict(optimizer=dict(lr=6e-5))

# Eight GPUs of eight images are 64: `--auto-scale-lr` makes the rate 2.7e-5.
auto_scale_lr = dict(enable=False, base_batch_size=144)
