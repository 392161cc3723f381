# FLoRA on the spans of the averaged gradient.
method = dict(
    type='mmflora.PEFTConvNeXt',
    peft=dict(
        adapter=dict(type='FLoRA', rank=16, start='gradient'),
        calibration=dict(batches=8),
    ),
)
