# DoRA over LoRA in loralib's form for convolutions, on every convolution and
# linear layer.
method = dict(
    type='mmflora.PEFTConvNeXt',
    peft=dict(adapter=dict(type='DoRA', rank=8, alpha=16, form='loralib')),
)
