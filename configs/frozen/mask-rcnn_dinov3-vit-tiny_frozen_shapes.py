_base_ = [
    '../_base_/recipes/mask-rcnn_dinov3-vit-tiny_shapes.py',
    '../_base_/methods/transformer/frozen.py',
]

model = dict(backbone=_base_.method)
