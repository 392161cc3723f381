# DINOv3 ViT-L/16, distilled on LVD-1689M: 24 blocks of width 1024, rotary
# embeddings, one class and four register tokens.
#
# As it stands, timm downloads its weights on first use. On a machine without a
# network name a file or folder of Meta's, of Hugging Face's or of timm's:
#   --cfg-options model.backbone.backbone.init_cfg.checkpoint=weights/\
#   dinov3_vitl16_pretrain_lvd1689m-8aa4cbdd.pth
base_weights = 'timm://vit_large_patch16_dinov3.lvd1689m'
# The tools add this to their message when a file of weights is missing.
weights_help = (
    "Meta's file is dinov3_vitl16_pretrain_lvd1689m-….pth of "
    'https://github.com/facebookresearch/dinov3 (DINOv3 License).'
)

vit = dict(
    type='mmflora.TimmBackbone',
    model_name='vit_large_patch16_dinov3',
    out_indices=[23],
    init_cfg=dict(type='Pretrained', checkpoint=base_weights),
)
