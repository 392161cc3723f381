# Blocks 4, 11, 17 and 23, each normed: those that DINOv3 takes for its
# Mask2Former (dinov3/eval/segmentation/models/__init__.py of
# https://github.com/facebookresearch/dinov3). The rest is the paper of FLoRA's
# recipe for ADE20K; stochastic depth and layer decay are those of EVA-02-L's
# UperNet (see upernet_eva02-l_ade20k-512x512.py), a ViT-L, too.
_base_ = [
    '../models/upernet_vit.py',
    '../backbones/dinov3-vit-l.py',
    '../datasets/ade20k_512x512.py',
    '../schedules/adamw_160k.py',
    '../default_runtime_mmseg.py',
]

model = dict(
    backbone=dict(
        backbone=dict(
            _base_.vit,
            out_indices=[4, 11, 17, 23],
            final_norm='all',
            drop_path_rate=0.2,
        )
    ),
    neck=dict(in_channels=[1024] * 4),
    decode_head=dict(in_channels=[1024] * 4),
    auxiliary_head=dict(in_channels=1024),
)
full_finetuning = dict(layer_decay=0.9)
