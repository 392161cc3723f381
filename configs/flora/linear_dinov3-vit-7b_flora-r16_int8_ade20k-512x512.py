_base_ = [
    '../_base_/recipes/linear_dinov3-vit-7b_ade20k-512x512.py',
    '../_base_/methods/transformer-4096/flora-r16_int8.py',
]

model = dict(backbone=_base_.method)
