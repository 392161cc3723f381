_base_ = [
    '../_base_/recipes/dino-5scale_swin-l_coco.py',
    '../_base_/methods/transformer/dora-r16.py',
]

model = dict(backbone=_base_.method)
