# LoTR: two factors for layers of one size, and a core for each.
method = dict(
    type='mmflora.PEFTConvNeXt',
    peft=dict(adapter=dict(type='LoTR', rank=16)),
)
