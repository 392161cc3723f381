# SoKA: Kronecker products, from the leading ones of each weight.
method = dict(
    type='mmflora.PEFTConvNeXt',
    peft=dict(adapter=dict(type='SoKA', rank=16)),
)
