# AdaptFormer's scaled bottlenecks beside the MLPs.
method = dict(
    type='mmflora.PEFTConvNeXt',
    peft=dict(adapter=dict(type='AdaptFormer', width=64, scale=0.1)),
)
