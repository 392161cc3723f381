_base_ = [
    '../_base_/recipes/mask-rcnn_dinov3-vit-l_coco-1024x1024.py',
    '../_base_/methods/transformer/dora-r16.py',
]

model = dict(backbone=_base_.method)
