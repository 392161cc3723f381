# 75 epochs instead of 100: how ViTDet trains ViT-H (detectron2's
# projects/ViTDet/configs/COCO/cascade_mask_rcnn_vitdet_h_75ep.py).
_base_ = './vitdet_100e.py'

train_cfg = dict(max_epochs=75)

param_scheduler = [
    dict(
        type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=250
    ),
    dict(
        type='MultiStepLR',
        begin=0,
        end=75,
        by_epoch=True,
        milestones=[67, 72],
        gamma=0.1,
    ),
]
