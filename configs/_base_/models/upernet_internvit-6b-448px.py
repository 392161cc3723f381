# InternViT-6B as it goes on from V1.2: 45 blocks, pre-trained at 448 px. The
# weights named here are V2.5's; earlier ones load the same way.
_base_ = './upernet_internvit-6b.py'

base_weights = 'checkpoints/InternViT-6B-448px-V2_5'
weights_help = (
    "The folder holds the authors' OpenGVLab/InternViT-6B-448px-V2_5 of "
    'Hugging Face (MIT): the .safetensors shards and their index.'
)

model = dict(
    backbone=dict(
        depth=45,
        out_indices=(11, 22, 33, 44),
        init_cfg=dict(checkpoint=base_weights),
    ),
)
