# Every tenth block, normed, as DINOv3 takes them for its Mask2Former on the
# ViT-7B; see mask2former_dinov3-vit-l_ade20k-640x640.py.
_base_ = [
    '../models/mask2former_vit.py',
    '../backbones/dinov3-vit-7b.py',
    '../datasets/ade20k_640x640.py',
    '../schedules/mask2former_160k.py',
    '../default_runtime_mmseg.py',
]

custom_imports = dict(imports=['mmflora', 'mmdet.models'])
model = dict(
    backbone=dict(
        backbone=dict(
            _base_.vit, out_indices=[9, 19, 29, 39], final_norm='all'
        )
    ),
    neck=dict(in_channels=[4096] * 4),
)
