# The paper of FLoRA's recipe for ConvNeXt-V2-L on DOTA, for a network of the
# same shape.
_base_ = [
    '../models/oriented-rcnn-le90.py',
    '../backbones/dinov3-convnext-l.py',
    '../datasets/dota.py',
    '../schedules/sgd_12e.py',
    '../default_runtime_mmrotate.py',
]

model = dict(
    backbone=_base_.convnext,
    neck=dict(in_channels=[192, 384, 768, 1536]),
)
