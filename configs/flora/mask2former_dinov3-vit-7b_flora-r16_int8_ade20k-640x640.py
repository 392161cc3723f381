_base_ = [
    '../_base_/recipes/mask2former_dinov3-vit-7b_ade20k-640x640.py',
    '../_base_/methods/transformer-4096/flora-r16_int8.py',
]

model = dict(backbone=_base_.method)
