# Mona's filters behind the sums of the blocks.
method = dict(
    type='mmflora.PEFTConvNeXt',
    peft=dict(adapter=dict(type='Mona', width=64)),
)
