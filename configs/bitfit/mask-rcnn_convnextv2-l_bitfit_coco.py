_base_ = [
    '../_base_/models/mask-rcnn_convnextv2-l.py',
    '../_base_/datasets/coco_instance.py',
    '../_base_/schedules/adamw_12e.py',
    '../_base_/methods/bitfit.py',
    '../_base_/default_runtime_mmdet.py',
]

model = dict(backbone=_base_.method)
