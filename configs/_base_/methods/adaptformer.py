# AdaptFormer's scaled bottlenecks beside the MLPs.
method = dict(
    type='mmflora.PEFTConvNeXt',
    adapter=dict(type='AdaptFormer', width=64, scale=0.1),
)
