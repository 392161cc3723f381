# Every eighth block, normed, as DINOv3 takes them for its Mask2Former; see
# mask2former_dinov3-vit-l_ade20k-640x640.py.
_base_ = [
    '../models/mask2former_vit.py',
    '../backbones/dinov3-vit-h-plus.py',
    '../datasets/ade20k_640x640.py',
    '../schedules/mask2former_160k.py',
    '../default_runtime_mmseg.py',
]

custom_imports = dict(imports=['mmflora', 'mmdet.models'])
model = dict(
    backbone=dict(
        backbone=dict(
            _base_.vit, out_indices=[7, 15, 23, 31], final_norm='all'
        )
    ),
    neck=dict(in_channels=[1280] * 4),
)
