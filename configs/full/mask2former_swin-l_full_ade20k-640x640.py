_base_ = [
    '../_base_/recipes/mask2former_swin-l_ade20k-640x640.py',
    '../_base_/methods/transformer/full.py',
]

model = dict(backbone=_base_.method)
optim_wrapper = dict(paramwise_cfg=_base_.full_finetuning)
