# DINOv2 ViT-L/14 with four registers, distilled on LVD-142M: 24 blocks of
# width 1024, positions trained at 518 pixels.
base_weights = 'timm://vit_large_patch14_reg4_dinov2.lvd142m'
weights_help = (
    "Meta's file is dinov2_vitl14_reg4_pretrain.pth of "
    'https://github.com/facebookresearch/dinov2 (Apache 2.0).'
)

vit = dict(
    type='mmflora.TimmBackbone',
    model_name='vit_large_patch14_reg4_dinov2',
    out_indices=[23],
    init_cfg=dict(type='Pretrained', checkpoint=base_weights),
)
