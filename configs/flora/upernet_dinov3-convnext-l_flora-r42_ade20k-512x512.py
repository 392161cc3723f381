_base_ = [
    '../_base_/recipes/upernet_dinov3-convnext-l_ade20k-512x512.py',
    '../_base_/methods/flora-r42.py',
]

model = dict(backbone=_base_.method)
