# OLoRA: LoRA that starts at an orthonormal basis of the weight.
method = dict(
    type='mmflora.PEFTConvNeXt', peft=dict(adapter=dict(type='OLoRA', rank=8))
)
