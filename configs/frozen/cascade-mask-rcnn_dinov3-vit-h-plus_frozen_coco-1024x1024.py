_base_ = [
    '../_base_/recipes/cascade-mask-rcnn_dinov3-vit-h-plus_coco-1024x1024.py',
    '../_base_/methods/transformer/frozen.py',
]

model = dict(backbone=_base_.method)
