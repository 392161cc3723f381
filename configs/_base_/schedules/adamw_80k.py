# 80k iterations of AdamW at 4e-5 for 16 images: how the authors of InternViT
# train UperNet on ADE20K.
_base_ = './adamw_160k.py'

train_cfg = dict(max_iters=80000, val_interval=8000)

param_scheduler = [
    dict(
        type='LinearLR', start_factor=1e-6, by_epoch=False, begin=0, end=1500
    ),
    dict(
        type='PolyLR',
        power=1.0,
        begin=1500,
        end=80000,
        eta_min=0.0,
        by_epoch=False,
    ),
]

optim_wrapper = dict(optimizer=dict(lr=4e-5))
