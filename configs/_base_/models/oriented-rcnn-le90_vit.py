# Oriented R-CNN (le90 angles) on a plain transformer with ViTDet's pyramid.
# The file of a recipe names the backbone and its width.
_base_ = './oriented-rcnn-le90.py'

model = dict(
    backbone=dict(
        type='mmflora.PEFTBackbone',
        peft=dict(autocast='bfloat16'),
    ),
    neck=dict(
        _delete_=True,
        type='mmflora.SimplePyramid',
        out_channels=256,
        num_outs=5,
    ),
)
