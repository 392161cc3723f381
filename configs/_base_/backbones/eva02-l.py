# EVA-02-L, trained by masked image modelling on Merged-38M: 24 blocks of width
# 1024 with gated MLPs and rotary embeddings. As its authors do for dense
# tasks, patches of 14 pixels are taken to 16.
base_weights = 'timm://eva02_large_patch14_224.mim_m38m'
weights_help = (
    "The authors' file is eva02_L_pt_m38m_p14.pt of "
    'https://github.com/baaivision/EVA (MIT).'
)

vit = dict(
    type='mmflora.TimmBackbone',
    model_name='eva02_large_patch14_224',
    patch_size=16,
    out_indices=[23],
    init_cfg=dict(type='Pretrained', checkpoint=base_weights),
)
