# ViTDet's protocol for ViT-H (see the schedule) on a model of its size; see
# mask-rcnn_dinov3-vit-l_coco-1024x1024.py.
_base_ = [
    '../models/cascade-mask-rcnn_vit.py',
    '../backbones/dinov3-vit-h-plus.py',
    '../datasets/coco_instance_1024x1024.py',
    '../schedules/vitdet_75e.py',
    '../default_runtime_mmdet.py',
]

model = dict(
    # Eight images take more than 80 GB, unless blocks are computed once more.
    backbone=dict(
        backbone=dict(
            _base_.vit, final_norm='last', drop_path_rate=0.5, with_cp=True
        )
    ),
    neck=dict(in_channels=1280),
)
