# DINOv2's own linear protocol, see the schedule. Its crops are of 512 pixels,
# padded to 37 patches of 14; these are of 36 patches, so that logits and
# labels cover the same pixels.
_base_ = [
    '../models/linear_vit.py',
    '../backbones/dinov2-vit-l-reg.py',
    '../datasets/ade20k_504x504.py',
    '../schedules/dinov2_linear_40k.py',
    '../default_runtime_mmseg.py',
]

model = dict(
    data_preprocessor=dict(size=(504, 504)),
    backbone=dict(backbone=dict(_base_.vit, img_size=504)),
    neck=dict(in_channels=[1024]),
    decode_head=dict(in_channels=1024, channels=1024, dropout_ratio=0.0),
    test_cfg=dict(crop_size=(504, 504), stride=(336, 336)),
)
