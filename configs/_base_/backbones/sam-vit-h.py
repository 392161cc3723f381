# The image encoder of SAM ViT-H: 32 blocks of width 1280, attention in windows
# of 14 patches but for blocks 7, 15, 23 and 31, as in ViTDet.
base_weights = 'timm://samvit_huge_patch16.sa1b'
weights_help = (
    "The authors' file is sam_vit_h_4b8939.pth of "
    'https://github.com/facebookresearch/segment-anything (Apache 2.0).'
)

vit = dict(
    type='mmflora.TimmBackbone',
    model_name='samvit_huge_patch16',
    out_indices=[31],
    init_cfg=dict(type='Pretrained', checkpoint=base_weights),
)
