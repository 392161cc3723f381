_base_ = [
    '../_base_/recipes/mask2former_swin-l_ade20k-640x640.py',
    '../_base_/methods/transformer/frozen.py',
]

model = dict(backbone=_base_.method)
