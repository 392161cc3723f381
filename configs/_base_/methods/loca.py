# LoCA: 64 coefficients of each weight's cosine transform, and their places.
method = dict(
    type='mmflora.PEFTConvNeXt',
    peft=dict(adapter=dict(type='LoCA', frequencies=64)),
)
