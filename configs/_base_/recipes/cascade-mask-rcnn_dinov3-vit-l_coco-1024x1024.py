# As mask-rcnn_dinov3-vit-l_coco-1024x1024.py, with a cascade of three heads
# (detectron2's projects/ViTDet/configs/COCO/
# cascade_mask_rcnn_vitdet_l_100ep.py differs in nothing else).
_base_ = [
    '../models/cascade-mask-rcnn_vit.py',
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
