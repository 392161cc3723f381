# SVFit: the leading singular values of each weight train.
method = dict(
    type='mmflora.PEFTConvNeXt',
    peft=dict(adapter=dict(type='SVFit', rank=64)),
)
