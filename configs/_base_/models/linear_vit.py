# The linear head of the DINO papers: a batch norm and a 1x1 convolution on the
# normed patches of the last block. The cheapest there is. The file of a recipe
# names the backbone and its width.
#
# DINOv2's BNHead (dinov2/eval/segmentation/models/decode_heads/linear_head.py
# of https://github.com/facebookresearch/dinov2) has no dropout; DINOv3's
# LinearHead (dinov3/eval/segmentation/models/heads/linear_head.py of
# https://github.com/facebookresearch/dinov3) has one of 0.1, of whole channels
# and before the norm. Here it is MMSegmentation's, of whole channels and after
# the norm.
model = dict(
    type='EncoderDecoder',
    data_preprocessor=dict(
        type='SegDataPreProcessor',
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        size=(512, 512),
        pad_val=0,
        seg_pad_val=255,
    ),
    pretrained=None,
    backbone=dict(
        type='mmflora.PEFTBackbone',
        backbone=dict(final_norm='last'),
        peft=dict(autocast='bfloat16'),
    ),
    neck=dict(
        type='mmflora.BatchNormNeck',
        norm_cfg=dict(type='SyncBN'),
    ),
    decode_head=dict(
        type='FCNHead',
        num_convs=0,
        concat_input=False,
        in_index=0,
        dropout_ratio=0.1,
        num_classes=150,
        align_corners=False,
        loss_decode=dict(
            type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0
        ),
    ),
    train_cfg=dict(),
    test_cfg=dict(mode='slide', crop_size=(512, 512), stride=(341, 341)),
)
