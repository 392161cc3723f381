# The small twin of upernet_convnextv2-l.py, for the generated data at 128x128:
# see mask-rcnn_convnextv2-atto.py.
_base_ = './upernet_convnextv2-l.py'

base_weights = 'work_dirs/shapes_base/base.pth'
weights_help = (
    'Train it with `python tools/train.py '
    'configs/full/mask-rcnn_convnextv2-atto_full_shapes-source.py`.'
)
norm_cfg = dict(type='BN', requires_grad=True)

model = dict(
    data_preprocessor=dict(size=(128, 128)),
    backbone=dict(
        arch='convnextv2_atto',
        drop_path_rate=0.0,
        init_cfg=dict(checkpoint=base_weights, prefix='backbone.'),
    ),
    # The six shapes and the background.
    decode_head=dict(
        in_channels=[40, 80, 160, 320],
        channels=64,
        num_classes=7,
        norm_cfg=norm_cfg,
    ),
    auxiliary_head=dict(
        in_channels=160,
        channels=32,
        num_classes=7,
        norm_cfg=norm_cfg,
    ),
    test_cfg=dict(crop_size=(128, 128), stride=(85, 85)),
)
