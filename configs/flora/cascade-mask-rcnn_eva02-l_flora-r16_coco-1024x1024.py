_base_ = [
    '../_base_/recipes/cascade-mask-rcnn_eva02-l_coco-1024x1024.py',
    '../_base_/methods/transformer/flora-r16.py',
]

model = dict(backbone=_base_.method)
