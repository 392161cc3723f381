# UperNet on ConvNeXt-V2-L for crops of 512x512 and the 150 classes of ADE20K.
# Written out, because MMEngine does not resolve `mmseg::` bases.

# See mask-rcnn_convnextv2-l.py for the source, the licence and how to name a
# local file instead.
base_weights = 'timm://convnextv2_large.fcmae_ft_in22k_in1k'
# The tools add this to their message when a file of weights is missing.
weights_help = (
    "The authors' file is convnextv2_large_22k_224_ema.pt of "
    'https://github.com/facebookresearch/ConvNeXt-V2 (CC-BY-NC 4.0).'
)
norm_cfg = dict(type='SyncBN', requires_grad=True)

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
    # EncoderDecoder's own way to name backbone weights; the backbone has its
    # `init_cfg` instead.
    pretrained=None,
    backbone=dict(
        type='mmflora.ConvNeXt',
        arch='convnextv2_large',
        out_indices=(0, 1, 2, 3),
        drop_path_rate=0.4,
        autocast='bfloat16',
        init_cfg=dict(type='Pretrained', checkpoint=base_weights),
    ),
    decode_head=dict(
        type='UPerHead',
        in_channels=[192, 384, 768, 1536],
        in_index=[0, 1, 2, 3],
        pool_scales=(1, 2, 3, 6),
        channels=512,
        dropout_ratio=0.1,
        num_classes=150,
        norm_cfg=norm_cfg,
        align_corners=False,
        loss_decode=dict(
            type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0
        ),
    ),
    auxiliary_head=dict(
        type='FCNHead',
        in_channels=768,
        in_index=2,
        channels=256,
        num_convs=1,
        concat_input=False,
        dropout_ratio=0.1,
        num_classes=150,
        norm_cfg=norm_cfg,
        align_corners=False,
        loss_decode=dict(
            type='CrossEntropyLoss', use_sigmoid=False, loss_weight=0.4
        ),
    ),
    train_cfg=dict(),
    test_cfg=dict(mode='slide', crop_size=(512, 512), stride=(341, 341)),
)
