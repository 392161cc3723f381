# DINOv3 ConvNeXt-L, distilled on LVD-1689M.
base_weights = 'timm://convnext_large.dinov3_lvd1689m'
weights_help = (
    "Meta's file is dinov3_convnext_large_pretrain_lvd1689m-….pth of "
    'https://github.com/facebookresearch/dinov3 (DINOv3 License).'
)

convnext = dict(
    type='mmflora.ConvNeXt',
    arch='convnext_large',
    out_indices=(0, 1, 2, 3),
    drop_path_rate=0.4,
    autocast='bfloat16',
    init_cfg=dict(type='Pretrained', checkpoint=base_weights),
)
