# Cascade Mask R-CNN on a plain transformer: ViTDet's pyramid, MMDetection's
# heads. The file of a recipe names the backbone and its width.
_base_ = 'mmdet::_base_/models/cascade-mask-rcnn_r50_fpn.py'

model = dict(
    backbone=dict(
        _delete_=True,
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
