# The weights are those of aerial images. 12 epochs of AdamW at 1e-4 with decay
# 0.05 and clipping at 35, stochastic depth of 0.3 and layer decay of 0.9: how
# MTP fine-tunes ViT-L in Oriented R-CNN on DOTA (RS_Tasks_Finetune/
# Rotated_Detection/mmrotate0.3.4/configs/mtp/dotav1/
# oriented_rcnn_rvsa_l_1024_mae_dota10.py of
# https://github.com/ViTAE-Transformer/MTP), with two images per GPU as there.
_base_ = [
    '../models/oriented-rcnn-le90_vit.py',
    '../backbones/dinov3-vit-l-sat.py',
    '../datasets/dota.py',
    '../schedules/adamw_12e.py',
    '../default_runtime_mmrotate.py',
]

model = dict(
    data_preprocessor=dict(
        # SAT-493M's.
        mean=[109.65, 104.805, 75.48],
        std=[54.315, 39.78, 36.465],
    ),
    backbone=dict(
        backbone=dict(_base_.vit, final_norm='last', drop_path_rate=0.3)
    ),
    neck=dict(in_channels=1024),
)
auto_scale_lr = dict(base_batch_size=16)
full_finetuning = dict(layer_decay=0.9)
