# Mask R-CNN on a plain transformer: ViTDet's pyramid, MMDetection's heads. The
# file of a recipe names the backbone and its width.
_base_ = 'mmdet::_base_/models/mask-rcnn_r50_fpn.py'

model = dict(
    # The toolkit's mean and std are ImageNet's, in RGB, with images read as
    # BGR and swapped: those of DINOv2, DINOv3 and SAM.
    backbone=dict(
        _delete_=True,
        type='mmflora.PEFTBackbone',
        # bfloat16 inside the backbone, float32 features out of it, which the
        # operators of the heads need. On a GPU without bfloat16: None.
        peft=dict(autocast='bfloat16'),
    ),
    neck=dict(
        _delete_=True,
        type='mmflora.SimplePyramid',
        out_channels=256,
        num_outs=5,
    ),
)
