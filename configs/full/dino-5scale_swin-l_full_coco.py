_base_ = [
    '../_base_/recipes/dino-5scale_swin-l_coco.py',
    '../_base_/methods/transformer/full.py',
]

model = dict(backbone=_base_.method)
optim_wrapper = dict(paramwise_cfg=_base_.full_finetuning)
