# Conv-Adapter beside depthwise and downsampling convolutions.
method = dict(
    type='mmflora.PEFTConvNeXt',
    peft=dict(adapter=dict(type='ConvAdapter', reduction=4)),
)
