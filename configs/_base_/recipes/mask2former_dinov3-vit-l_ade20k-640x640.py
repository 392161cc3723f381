# Blocks 4, 11, 17 and 23, each normed, as DINOv3 takes them for its
# Mask2Former, which has a frozen backbone and a ViT-Adapter. The schedule is
# Mask2Former's own.
_base_ = [
    '../models/mask2former_vit.py',
    '../backbones/dinov3-vit-l.py',
    '../datasets/ade20k_640x640.py',
    '../schedules/mask2former_160k.py',
    '../default_runtime_mmseg.py',
]

custom_imports = dict(imports=['mmflora', 'mmdet.models'])
model = dict(
    backbone=dict(
        backbone=dict(
            _base_.vit, out_indices=[4, 11, 17, 23], final_norm='all'
        )
    ),
    neck=dict(in_channels=[1024] * 4),
)
