# LIFT: the 5 % of each weight's entries that are largest in its rank-8 part.
method = dict(
    type='mmflora.PEFTConvNeXt',
    peft=dict(adapter=dict(type='LIFT', rank=8, density=0.05)),
)
