# MoSA's bottlenecks beside the MLPs, of which a quarter trains at a time.
method = dict(
    type='mmflora.PEFTConvNeXt',
    peft=dict(adapter=dict(type='MoSA', width=64, scale=0.1, parts=4)),
)
