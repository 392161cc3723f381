# DINOv3's own detector is a frozen ViT-7B with a DETR; for fine-tuning there
# is no protocol of its authors. This is ViTDet's for ViT-L: see the schedule,
# and detectron2's projects/ViTDet/configs/COCO/mask_rcnn_vitdet_l_100ep.py for
# stochastic depth and layer decay. Attention is global in all blocks, as
# DINOv3 was trained.
_base_ = [
    '../models/mask-rcnn_vit.py',
    '../backbones/dinov3-vit-l.py',
    '../datasets/coco_instance_1024x1024.py',
    '../schedules/vitdet_100e.py',
    '../default_runtime_mmdet.py',
]

model = dict(
    backbone=dict(
        backbone=dict(_base_.vit, final_norm='last', drop_path_rate=0.4)
    ),
    neck=dict(in_channels=1024),
)
full_finetuning = dict(layer_decay=0.8)
