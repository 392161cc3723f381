_base_ = [
    '../_base_/recipes/upernet_eva02-l_ade20k-512x512.py',
    '../_base_/methods/transformer/flora-r16.py',
]

model = dict(backbone=_base_.method)
