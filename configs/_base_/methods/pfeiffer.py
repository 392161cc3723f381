# Pfeiffer's bottlenecks, one behind the MLP of each block. A ConvNeXt has no
# attention, so they differ from Houlsby's by the activation alone.
method = dict(
    type='mmflora.PEFTConvNeXt',
    peft=dict(adapter=dict(type='Pfeiffer', width=64)),
)
