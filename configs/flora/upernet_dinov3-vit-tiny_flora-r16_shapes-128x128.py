_base_ = [
    '../_base_/recipes/upernet_dinov3-vit-tiny_shapes-128x128.py',
    '../_base_/methods/transformer/flora-r16.py',
]

model = dict(backbone=_base_.method)
