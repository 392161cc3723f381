_base_ = [
    '../_base_/models/upernet_internvit-tiny.py',
    '../_base_/datasets/shapes_ade20k_128x128.py',
    '../_base_/schedules/adamw_shapes_320.py',
    '../_base_/methods/internvit/noah.py',
    '../_base_/default_runtime_mmseg.py',
]

model = dict(backbone=_base_.method)
