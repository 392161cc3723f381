# CorDA: LoRA on components of the weight that the data orients.
method = dict(
    type='mmflora.PEFTConvNeXt',
    peft=dict(adapter=dict(type='CorDA', rank=8), calibration=dict(batches=8)),
)
