# LoRA-GA: LoRA along the gradient of the first batches.
method = dict(
    type='mmflora.PEFTConvNeXt',
    peft=dict(
        adapter=dict(type='LoRAGA', rank=8), calibration=dict(batches=8)
    ),
)
