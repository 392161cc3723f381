# Queryable LoRA: eight atoms for all layers, mixed by a query of each pixel.
method = dict(
    type='mmflora.PEFTConvNeXt',
    peft=dict(adapter=dict(type='QueryableLoRA', rank=8, atoms=8)),
)
