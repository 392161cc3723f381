# DINOv3's own linear protocol, see the schedule; data are augmented as
# MMSegmentation does, which adds a distortion of colors to DINOv3's.
_base_ = [
    '../models/linear_vit.py',
    '../backbones/dinov3-vit-l.py',
    '../datasets/ade20k_512x512.py',
    '../schedules/dinov3_linear_40k.py',
    '../default_runtime_mmseg.py',
]

model = dict(
    backbone=dict(backbone=_base_.vit),
    neck=dict(in_channels=[1024]),
    decode_head=dict(in_channels=1024, channels=1024),
)
