# The paper of FLoRA's recipe for ConvNeXt-V2-L on ADE20K, for a network of the
# same shape.
_base_ = [
    '../models/upernet.py',
    '../backbones/dinov3-convnext-l.py',
    '../datasets/ade20k_512x512.py',
    '../schedules/adamw_160k.py',
    '../default_runtime_mmseg.py',
]

model = dict(
    backbone=_base_.convnext,
    decode_head=dict(in_channels=[192, 384, 768, 1536]),
    auxiliary_head=dict(in_channels=768),
)
