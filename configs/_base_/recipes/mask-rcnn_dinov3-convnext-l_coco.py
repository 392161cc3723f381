# The paper of FLoRA's recipe for ConvNeXt-V2-L on COCO, for a network of the
# same shape. DINOv3's authors have no detector on it.
_base_ = [
    'mmdet::_base_/models/mask-rcnn_r50_fpn.py',
    '../backbones/dinov3-convnext-l.py',
    '../datasets/coco_instance.py',
    '../schedules/adamw_12e.py',
    '../default_runtime_mmdet.py',
]

model = dict(
    backbone=dict(_base_.convnext, _delete_=True),
    neck=dict(in_channels=[192, 384, 768, 1536]),
)
