# LoLDU: a diagonal between triangular factors of each weight.
method = dict(
    type='mmflora.PEFTConvNeXt',
    peft=dict(adapter=dict(type='LoLDU', rank=64)),
)
