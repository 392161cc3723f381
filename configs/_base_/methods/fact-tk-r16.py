# FacT: two factors and a core for all layers (Tucker).
method = dict(
    type='mmflora.PEFTConvNeXt',
    peft=dict(adapter=dict(type='FacT', rank=16, form='tk')),
)
