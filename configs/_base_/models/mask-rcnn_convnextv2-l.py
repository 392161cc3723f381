# Mask R-CNN on ConvNeXt-V2-L. The backbone is the plain one; a file of
# ../methods turns it into an adapted, a frozen or a fully trained one.
_base_ = 'mmdet::_base_/models/mask-rcnn_r50_fpn.py'

# Base weights, pre-trained on ImageNet-22k by the authors of ConvNeXt-V2 and
# licensed CC-BY-NC 4.0. As it stands, timm downloads them on first use. On a
# machine without a network name a copy of the authors' file instead:
#   --cfg-options model.backbone.init_cfg.checkpoint=weights/\
#   convnextv2_large_22k_224_ema.pt
base_weights = 'timm://convnextv2_large.fcmae_ft_in22k_in1k'
# The tools add this to their message when a file of weights is missing.
weights_help = (
    "The authors' file is convnextv2_large_22k_224_ema.pt of "
    'https://github.com/facebookresearch/ConvNeXt-V2 (CC-BY-NC 4.0).'
)

model = dict(
    # The toolkit's mean and std are ImageNet's, in RGB, with images read as
    # BGR and swapped: what ConvNeXt was trained on.
    backbone=dict(
        _delete_=True,
        type='mmflora.ConvNeXt',
        arch='convnextv2_large',
        out_indices=(0, 1, 2, 3),
        drop_path_rate=0.4,
        # bfloat16 inside the backbone, float32 features out of it, which the
        # operators of the heads need. On a GPU without bfloat16: None.
        autocast='bfloat16',
        init_cfg=dict(type='Pretrained', checkpoint=base_weights),
    ),
    neck=dict(in_channels=[192, 384, 768, 1536]),
)
