# The base of the small configs of plain transformers: every parameter trains,
# from nothing, on the source domain of the generated data. The result is what
# their `base_weights` names: work_dirs/shapes_base_dinov3/base.pth, a plain
# checkpoint.
_base_ = '../_base_/recipes/mask-rcnn_dinov3-vit-tiny_shapes.py'

data_root = 'data/shapes/source/coco/'
work_dir = 'work_dirs/shapes_base_dinov3'

model = dict(
    backbone=dict(_base_.vit, _delete_=True, final_norm='last', init_cfg=None)
)

train_dataloader = dict(batch_size=4, dataset=dict(data_root=data_root))
val_dataloader = dict(dataset=dict(data_root=data_root))
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=data_root + 'annotations/instances_val2017.json')
test_evaluator = val_evaluator

# Enough to tell the classes of the source from each other.
train_cfg = dict(max_epochs=3, val_interval=3)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=20),
    dict(
        type='CosineAnnealingLR',
        begin=0,
        end=3,
        eta_min=1e-5,
        by_epoch=True,
        convert_to_iter_based=True,
    ),
]
optim_wrapper = dict(constructor='DefaultOptimWrapperConstructor')
default_hooks = dict(
    checkpoint=dict(
        _delete_=True,
        type='CheckpointHook',
        # At the end alone.
        interval=-1,
        save_last=True,
        filename_tmpl='base.pth',
        save_optimizer=False,
        save_param_scheduler=False,
    )
)
