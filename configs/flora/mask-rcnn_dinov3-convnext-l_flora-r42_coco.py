_base_ = [
    '../_base_/recipes/mask-rcnn_dinov3-convnext-l_coco.py',
    '../_base_/methods/flora-r42.py',
]

model = dict(backbone=_base_.method)
