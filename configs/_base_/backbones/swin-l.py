# Swin-L of windows of 12 patches, trained on ImageNet-22k at 384 pixels.
# MMEngine downloads the authors' file on first use. On a machine without a
# network name a copy of it instead:
#   --cfg-options model.backbone.backbone.init_cfg.checkpoint=weights/\
#   swin_large_patch4_window12_384_22k.pth
base_weights = (
    'https://github.com/SwinTransformer/storage/releases/download/v1.0.0/'
    'swin_large_patch4_window12_384_22k.pth'
)
weights_help = (
    "The authors' file is swin_large_patch4_window12_384_22k.pth of "
    'https://github.com/microsoft/Swin-Transformer (MIT).'
)

swin = dict(
    type='mmdet.SwinTransformer',
    pretrain_img_size=384,
    embed_dims=192,
    depths=[2, 2, 18, 2],
    num_heads=[6, 12, 24, 48],
    window_size=12,
    # The file has its authors' keys.
    convert_weights=True,
    init_cfg=dict(type='Pretrained', checkpoint=base_weights),
)
