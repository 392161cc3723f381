# SPT: LoRA for weights with many sensitive entries, else these entries alone.
method = dict(
    type='mmflora.PEFTConvNeXt',
    peft=dict(
        adapter=dict(type='SPT', rank=8, density=0.02),
        calibration=dict(batches=8),
    ),
)
