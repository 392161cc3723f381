_base_ = [
    '../_base_/recipes/upernet_dinov2-vit-l-reg_ade20k-504x504.py',
    '../_base_/methods/transformer/flora-r16.py',
]

model = dict(backbone=_base_.method)
