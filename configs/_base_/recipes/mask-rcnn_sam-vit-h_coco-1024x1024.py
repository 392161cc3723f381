# SAM's encoder is ViTDet's ViT-H: its protocol (see the schedule; detectron2's
# projects/ViTDet/configs/COCO/mask_rcnn_vitdet_h_75ep.py has stochastic depth
# and layer decay).
_base_ = [
    '../models/mask-rcnn_vit.py',
    '../backbones/sam-vit-h.py',
    '../datasets/coco_instance_1024x1024.py',
    '../schedules/vitdet_75e.py',
    '../default_runtime_mmdet.py',
]

model = dict(
    # Positions are added to the attention's matrix, which then is kept: 1 GB
    # for each image and global block, unless blocks are computed once more.
    backbone=dict(backbone=dict(_base_.vit, drop_path_rate=0.5, with_cp=True)),
    neck=dict(in_channels=1280),
)
full_finetuning = dict(layer_decay=0.9)
