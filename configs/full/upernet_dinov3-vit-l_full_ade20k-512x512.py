_base_ = [
    '../_base_/recipes/upernet_dinov3-vit-l_ade20k-512x512.py',
    '../_base_/methods/transformer/full.py',
]

model = dict(backbone=_base_.method)
optim_wrapper = dict(paramwise_cfg=_base_.full_finetuning)
