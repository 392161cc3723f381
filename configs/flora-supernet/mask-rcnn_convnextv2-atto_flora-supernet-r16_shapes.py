_base_ = [
    '../_base_/models/mask-rcnn_convnextv2-atto.py',
    '../_base_/datasets/shapes_coco.py',
    '../_base_/schedules/adamw_shapes.py',
    '../_base_/methods/flora-supernet-r16.py',
    '../_base_/default_runtime_mmdet.py',
]

model = dict(backbone=_base_.method)
