# DINOv3's own linear protocol, see the schedule: what its authors report for
# the ViT-7B.
_base_ = [
    '../models/linear_vit.py',
    '../backbones/dinov3-vit-7b.py',
    '../datasets/ade20k_512x512.py',
    '../schedules/dinov3_linear_40k.py',
    '../default_runtime_mmseg.py',
]

model = dict(
    backbone=dict(backbone=_base_.vit),
    neck=dict(in_channels=[4096]),
    decode_head=dict(in_channels=4096, channels=4096),
)
