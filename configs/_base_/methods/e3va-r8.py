# E³VA: low-rank adapters on a highway beside the backbone.
method = dict(
    type='mmflora.PEFTConvNeXt',
    peft=dict(adapter=dict(type='E3VA', rank=8)),
)
