# Compacter: bottlenecks of Kronecker products behind attention and MLPs.
method = dict(
    type='mmflora.PEFTConvNeXt',
    peft=dict(adapter=dict(type='Compacter', width=64, phm_dim=4)),
)
