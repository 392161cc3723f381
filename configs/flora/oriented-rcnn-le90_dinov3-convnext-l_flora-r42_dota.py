_base_ = [
    '../_base_/recipes/oriented-rcnn-le90_dinov3-convnext-l_dota.py',
    '../_base_/methods/flora-r42.py',
]

model = dict(backbone=_base_.method)
