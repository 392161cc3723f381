# FLoRA from the higher-order decomposition of the weight.
method = dict(
    type='mmflora.PEFTConvNeXt',
    peft=dict(adapter=dict(type='FLoRA', rank=16, start='weight')),
)
