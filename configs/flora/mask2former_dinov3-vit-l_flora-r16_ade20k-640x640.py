_base_ = [
    '../_base_/recipes/mask2former_dinov3-vit-l_ade20k-640x640.py',
    '../_base_/methods/transformer/flora-r16.py',
]

model = dict(backbone=_base_.method)
