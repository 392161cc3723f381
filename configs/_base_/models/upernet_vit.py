# UperNet on four blocks of a plain transformer, each brought to a scale of its
# own. As BEiT and EVA-02 have it, the width stays. The file of a recipe names
# the backbone, its blocks and its width.
_base_ = './upernet.py'

model = dict(
    backbone=dict(
        type='mmflora.PEFTBackbone',
        peft=dict(autocast='bfloat16'),
    ),
    neck=dict(
        type='mmflora.SimplePyramid',
        out_channels=None,
        halve_channels=False,
    ),
)
