# Last-layer tuning: the last block of ConvNeXt-V2-atto trains, all else is
# frozen. Other backbones name their last blocks otherwise: `blocks.11`.
method = dict(
    type='mmflora.PEFTConvNeXt',
    peft=dict(
        adapter=dict(type='Full'), targets=r'stages\.3\.blocks\.1(\..*)?'
    ),
)
