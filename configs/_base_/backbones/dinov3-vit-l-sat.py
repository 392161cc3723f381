# DINOv3 ViT-L/16, distilled on the aerial images of SAT-493M, which have a
# mean and standard deviation of their own.
_base_ = './dinov3-vit-l.py'

base_weights = 'timm://vit_large_patch16_dinov3.sat493m'
weights_help = (
    "Meta's file is dinov3_vitl16_pretrain_sat493m-….pth of "
    'https://github.com/facebookresearch/dinov3 (DINOv3 License).'
)

vit = dict(init_cfg=dict(checkpoint=base_weights))
