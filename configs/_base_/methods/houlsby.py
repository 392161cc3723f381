# Houlsby's bottlenecks, behind the MLPs: a ConvNeXt has no attention.
method = dict(
    type='mmflora.PEFTConvNeXt', adapter=dict(type='Houlsby', width=64)
)
