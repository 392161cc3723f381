# How its authors train EVA-02-L on COCO, see the schedule: windows of 16
# patches but for blocks 5, 11, 17 and 23, stochastic depth of 0.4, layer decay
# of 0.8, and ImageNet's mean and standard deviation. Theirs count rotary
# positions within each window; here they are those of the whole image.
_base_ = [
    '../models/cascade-mask-rcnn_vit.py',
    '../backbones/eva02-l.py',
    '../datasets/coco_instance_1024x1024.py',
    '../schedules/eva02_73e.py',
    '../default_runtime_mmdet.py',
]

model = dict(
    backbone=dict(
        backbone=dict(
            _base_.vit,
            img_size=1024,
            attention_window=16,
            global_blocks=[5, 11, 17, 23],
            drop_path_rate=0.4,
        )
    ),
    neck=dict(in_channels=1024),
)
full_finetuning = dict(layer_decay=0.8)
