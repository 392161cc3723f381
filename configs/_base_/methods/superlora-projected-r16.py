# SuperLoRA, projected: a nearly square matrix, spread over ten times its size.
method = dict(
    type='mmflora.PEFTConvNeXt',
    peft=dict(
        adapter=dict(type='SuperLoRA', rank=16, order=2, projection=0.1)
    ),
)
