# Houlsby's bottlenecks, behind the MLPs: a ConvNeXt has no attention.
method = dict(
    type='mmflora.PEFTConvNeXt',
    peft=dict(adapter=dict(type='Houlsby', width=64)),
)
