# The base of the small InternViT configs: every parameter trains, from
# nothing, on the source domain of the generated data. The result is what their
# `base_weights` names: work_dirs/shapes_base_internvit/base.pth, a plain
# checkpoint.
_base_ = [
    '../_base_/models/upernet_internvit-tiny.py',
    '../_base_/datasets/shapes_ade20k_128x128.py',
    '../_base_/schedules/adamw_shapes_320.py',
    '../_base_/methods/internvit/plain.py',
    '../_base_/default_runtime_mmseg.py',
]

data_root = 'data/shapes/source/ade/ADEChallengeData2016'
work_dir = 'work_dirs/shapes_base_internvit'

model = dict(backbone=dict(_base_.method, init_cfg=None))

train_dataloader = dict(dataset=dict(data_root=data_root))
val_dataloader = dict(dataset=dict(data_root=data_root))
test_dataloader = val_dataloader

# Enough to tell the classes of the source from each other.
train_cfg = dict(max_iters=400, val_interval=400)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=40),
    dict(
        type='CosineAnnealingLR',
        begin=0,
        end=400,
        eta_min=1e-5,
        by_epoch=False,
    ),
]
optim_wrapper = dict(constructor='DefaultOptimWrapperConstructor')
default_hooks = dict(
    checkpoint=dict(
        _delete_=True,
        type='CheckpointHook',
        by_epoch=False,
        # At the end alone.
        interval=-1,
        save_last=True,
        filename_tmpl='base.pth',
        save_optimizer=False,
        save_param_scheduler=False,
    )
)
