# UperNet on InternViT-6B for crops of 504x504 and the 150 classes of ADE20K:
# 48 blocks, pre-trained at 224 px. Four of them feed a pyramid of transposed
# convolutions and pooling, which is new and trains.
base_weights = 'checkpoints/intern_vit_6b_224px.pth'
# The tools add this to their message when a file of weights is missing.
weights_help = (
    "The authors' file is intern_vit_6b_224px.pth of OpenGVLab/InternVL on "
    'Hugging Face (MIT). The folder of OpenGVLab/InternViT-6B-224px, with its '
    'shards and their index, does as well.'
)
norm_cfg = dict(type='SyncBN', requires_grad=True)

model = dict(
    type='EncoderDecoder',
    data_preprocessor=dict(
        type='SegDataPreProcessor',
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        size=(504, 504),
        pad_val=0,
        seg_pad_val=255,
    ),
    # EncoderDecoder's own way to name backbone weights; the backbone has its
    # `init_cfg` instead.
    pretrained=None,
    backbone=dict(
        type='mmflora.InternViT',
        # The position embeddings are resized to it once.
        img_size=504,
        patch_size=14,
        embed_dims=3200,
        depth=48,
        num_heads=25,
        mlp_ratio=4.0,
        out_indices=(11, 23, 35, 47),
        drop_path_rate=0.4,
        # Each block is computed once more in the backward pass.
        with_cp=True,
        # The base is kept in bfloat16, 12 GB; adapters, pyramid and heads
        # train in float32. On a GPU without bfloat16: float16 and None.
        dtype='bfloat16',
        autocast='bfloat16',
        init_cfg=dict(type='Pretrained', checkpoint=base_weights),
    ),
    decode_head=dict(
        type='UPerHead',
        in_channels=[3200, 3200, 3200, 3200],
        in_index=[0, 1, 2, 3],
        pool_scales=(1, 2, 3, 6),
        channels=1536,
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
        in_channels=3200,
        in_index=2,
        channels=1536,
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
    test_cfg=dict(mode='slide', crop_size=(504, 504), stride=(322, 322)),
)
