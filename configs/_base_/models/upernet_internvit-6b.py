# UperNet on InternViT-6B for crops of 504x504 and the 150 classes of ADE20K:
# 48 blocks, pre-trained at 224 px. Four of them feed a pyramid of transposed
# convolutions and pooling, which is new and trains.
_base_ = './upernet.py'

base_weights = 'checkpoints/intern_vit_6b_224px.pth'
# The tools add this to their message when a file of weights is missing.
weights_help = (
    "The authors' file is intern_vit_6b_224px.pth of OpenGVLab/InternVL on "
    'Hugging Face (MIT). The folder of OpenGVLab/InternViT-6B-224px, with its '
    'shards and their index, does as well.'
)

model = dict(
    data_preprocessor=dict(size=(504, 504)),
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
    decode_head=dict(in_channels=[3200, 3200, 3200, 3200], channels=1536),
    auxiliary_head=dict(in_channels=3200, channels=1536),
    test_cfg=dict(crop_size=(504, 504), stride=(322, 322)),
)
