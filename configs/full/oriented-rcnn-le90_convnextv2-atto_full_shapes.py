_base_ = [
    '../_base_/models/oriented-rcnn-le90_convnextv2-atto.py',
    '../_base_/datasets/shapes_dota.py',
    '../_base_/schedules/adamw_shapes.py',
    '../_base_/methods/full.py',
    '../_base_/default_runtime_mmrotate.py',
]

model = dict(backbone=_base_.method)
