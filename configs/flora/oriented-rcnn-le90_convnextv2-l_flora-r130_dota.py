_base_ = [
    '../_base_/models/oriented-rcnn-le90_convnextv2-l.py',
    '../_base_/datasets/dota.py',
    '../_base_/schedules/sgd_12e.py',
    '../_base_/methods/flora-r130.py',
    '../_base_/default_runtime_mmrotate.py',
]

model = dict(backbone=_base_.method)
