# FacT: two factors for all layers, and a core for each (tensor train).
method = dict(
    type='mmflora.PEFTConvNeXt',
    peft=dict(adapter=dict(type='FacT', rank=16)),
)
