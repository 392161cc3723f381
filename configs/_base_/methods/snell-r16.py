# SNELL: the largest tenth of a kernel of low-rank factors.
method = dict(
    type='mmflora.PEFTConvNeXt',
    peft=dict(adapter=dict(type='SNELL', rank=16, sparsity=0.9)),
)
