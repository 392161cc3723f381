# DINOv3 ViT-H+/16, distilled on LVD-1689M: 32 blocks of width 1280 with gated
# MLPs, rotary embeddings, one class and four register tokens.
base_weights = 'timm://vit_huge_plus_patch16_dinov3.lvd1689m'
weights_help = (
    "Meta's file is dinov3_vith16plus_pretrain_lvd1689m-….pth of "
    'https://github.com/facebookresearch/dinov3 (DINOv3 License).'
)

vit = dict(
    type='mmflora.TimmBackbone',
    model_name='vit_huge_plus_patch16_dinov3',
    out_indices=[31],
    init_cfg=dict(type='Pretrained', checkpoint=base_weights),
)
