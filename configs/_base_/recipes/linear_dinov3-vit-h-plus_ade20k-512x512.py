# DINOv3's own linear protocol, see the schedule.
_base_ = [
    '../models/linear_vit.py',
    '../backbones/dinov3-vit-h-plus.py',
    '../datasets/ade20k_512x512.py',
    '../schedules/dinov3_linear_40k.py',
    '../default_runtime_mmseg.py',
]

model = dict(
    backbone=dict(backbone=_base_.vit),
    neck=dict(in_channels=[1280]),
    decode_head=dict(in_channels=1280, channels=1280),
)
