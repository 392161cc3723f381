_base_ = [
    '../_base_/recipes/cascade-mask-rcnn_eva02-l_coco-1024x1024.py',
    '../_base_/methods/transformer/full.py',
]

model = dict(backbone=_base_.method)
optim_wrapper = dict(paramwise_cfg=_base_.full_finetuning)
