# Mask2Former on four blocks of a plain transformer, each brought to a scale of
# its own. (The DINO papers put a ViT-Adapter between the two.) The file of a
# recipe names the backbone, its blocks and its width.
_base_ = './mask2former.py'

model = dict(
    backbone=dict(
        type='mmflora.PEFTBackbone',
        peft=dict(autocast='bfloat16'),
    ),
    neck=dict(type='mmflora.SimplePyramid', out_channels=256),
    decode_head=dict(in_channels=[256, 256, 256, 256]),
    # Windows of the size of the crops: positions were trained at this size.
    test_cfg=dict(mode='slide', crop_size=(640, 640), stride=(426, 426)),
)
