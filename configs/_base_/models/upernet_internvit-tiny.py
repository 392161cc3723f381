# The small twin of upernet_internvit-6b.py, for the generated data at 128x128:
# four narrow blocks, and each feeds the pyramid.
_base_ = './upernet_internvit-6b.py'

# Written by the config of configs/full that trains on the source domain of
# the generated data.
base_weights = 'work_dirs/shapes_base_internvit/base.pth'
weights_help = (
    'Train it with `python tools/train.py '
    'configs/full/upernet_internvit-tiny_full_shapes-source.py`.'
)
norm_cfg = dict(type='BN', requires_grad=True)

model = dict(
    data_preprocessor=dict(size=(128, 128)),
    backbone=dict(
        img_size=128,
        patch_size=8,
        embed_dims=64,
        depth=4,
        num_heads=4,
        out_indices=(0, 1, 2, 3),
        drop_path_rate=0.0,
        dtype=None,
        autocast=None,
        init_cfg=dict(checkpoint=base_weights, prefix='backbone.'),
    ),
    # The six shapes and the background.
    decode_head=dict(
        in_channels=[64, 64, 64, 64],
        channels=32,
        num_classes=7,
        norm_cfg=norm_cfg,
    ),
    auxiliary_head=dict(
        in_channels=64, channels=32, num_classes=7, norm_cfg=norm_cfg
    ),
    test_cfg=dict(crop_size=(128, 128), stride=(85, 85)),
)
