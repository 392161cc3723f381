# The base of the small configs: every parameter trains, from nothing, on the
# source domain of the generated data. Every pixel is a target, so it learns
# shapes in a minute or two, which a detector trained from nothing does not.
# The result is what `base_weights` of the small configs names:
# work_dirs/shapes_base/base.pth, a plain checkpoint.
_base_ = [
    '../_base_/models/upernet_convnextv2-atto.py',
    '../_base_/datasets/shapes_ade20k_128x128.py',
    '../_base_/schedules/adamw_shapes_320.py',
    '../_base_/methods/full.py',
    '../_base_/default_runtime_mmseg.py',
]

data_root = 'data/shapes/source/ade/ADEChallengeData2016'
work_dir = 'work_dirs/shapes_base'

model = dict(backbone=dict(_base_.method, init_cfg=None))

train_dataloader = dict(dataset=dict(data_root=data_root))
val_dataloader = dict(dataset=dict(data_root=data_root))
test_dataloader = val_dataloader

optim_wrapper = dict(constructor='DefaultOptimWrapperConstructor')
default_hooks = dict(
    checkpoint=dict(
        _delete_=True,
        type='CheckpointHook',
        by_epoch=False,
        interval=320,
        filename_tmpl='base.pth',
        save_optimizer=False,
        save_param_scheduler=False,
    )
)
