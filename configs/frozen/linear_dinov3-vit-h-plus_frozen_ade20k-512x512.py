_base_ = [
    '../_base_/recipes/linear_dinov3-vit-h-plus_ade20k-512x512.py',
    '../_base_/methods/transformer/frozen.py',
]

model = dict(backbone=_base_.method)
