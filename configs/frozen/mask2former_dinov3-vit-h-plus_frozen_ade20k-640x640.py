_base_ = [
    '../_base_/recipes/mask2former_dinov3-vit-h-plus_ade20k-640x640.py',
    '../_base_/methods/transformer/frozen.py',
]

model = dict(backbone=_base_.method)
