_base_ = [
    '../_base_/recipes/oriented-rcnn-le90_dinov3-vit-l_dota.py',
    '../_base_/methods/transformer/dora-r16.py',
]

model = dict(backbone=_base_.method)
