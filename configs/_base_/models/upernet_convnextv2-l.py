# UperNet on ConvNeXt-V2-L for crops of 512x512 and the 150 classes of ADE20K.
_base_ = './upernet.py'

# See mask-rcnn_convnextv2-l.py for the source, the licence and how to name a
# local file instead.
base_weights = 'timm://convnextv2_large.fcmae_ft_in22k_in1k'
# The tools add this to their message when a file of weights is missing.
weights_help = (
    "The authors' file is convnextv2_large_22k_224_ema.pt of "
    'https://github.com/facebookresearch/ConvNeXt-V2 (CC-BY-NC 4.0).'
)

model = dict(
    backbone=dict(
        type='mmflora.ConvNeXt',
        arch='convnextv2_large',
        out_indices=(0, 1, 2, 3),
        drop_path_rate=0.4,
        autocast='bfloat16',
        init_cfg=dict(type='Pretrained', checkpoint=base_weights),
    ),
    decode_head=dict(in_channels=[192, 384, 768, 1536]),
    auxiliary_head=dict(in_channels=768),
)
