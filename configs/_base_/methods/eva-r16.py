# EVA: LoRA on the directions in which inputs vary, 8 of them on average.
method = dict(
    type='mmflora.PEFTConvNeXt',
    peft=dict(
        adapter=dict(type='EVA', rank=16, rho=2.0),
        calibration=dict(batches=8),
    ),
)
