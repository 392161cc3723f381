# The small twin of upernet_convnextv2-l.py, for the generated data at 128x128.
_base_ = ['./upernet_convnextv2-l.py', './convnextv2-atto.py']

base_weights = _base_.atto.backbone.init_cfg.checkpoint
weights_help = _base_.atto.weights_help
norm_cfg = dict(type='BN', requires_grad=True)

model = dict(
    data_preprocessor=dict(size=(128, 128)),
    backbone=_base_.atto.backbone,
    # The six shapes and the background.
    decode_head=dict(
        in_channels=_base_.atto.neck.in_channels,
        channels=64,
        num_classes=7,
        norm_cfg=norm_cfg,
    ),
    auxiliary_head=dict(
        in_channels=_base_.atto.neck.in_channels[2],
        channels=32,
        num_classes=7,
        norm_cfg=norm_cfg,
    ),
    test_cfg=dict(crop_size=(128, 128), stride=(85, 85)),
)
