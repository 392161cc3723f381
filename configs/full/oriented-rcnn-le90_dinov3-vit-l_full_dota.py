_base_ = [
    '../_base_/recipes/oriented-rcnn-le90_dinov3-vit-l_dota.py',
    '../_base_/methods/transformer/full.py',
]

model = dict(backbone=_base_.method)
optim_wrapper = dict(paramwise_cfg=_base_.full_finetuning)
