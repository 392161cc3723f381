_base_ = [
    '../_base_/recipes/oriented-rcnn-le90_dinov3-vit-tiny_shapes.py',
    '../_base_/methods/transformer/flora-r16.py',
]

model = dict(backbone=_base_.method)
