# As DINOv2 trains its linear heads on ADE20K: less weight decay, and a linear
# fall (dinov2_vitl14_ade20k_linear_config.py beside the published heads, see
# notebooks/semantic_segmentation.ipynb of
# https://github.com/facebookresearch/dinov2).
_base_ = './dinov3_linear_40k.py'

param_scheduler = [
    dict(
        type='LinearLR', start_factor=1e-6, by_epoch=False, begin=0, end=1500
    ),
    dict(
        type='PolyLR',
        power=1.0,
        begin=1500,
        end=40000,
        eta_min=0.0,
        by_epoch=False,
    ),
]

optim_wrapper = dict(optimizer=dict(weight_decay=1e-4))
