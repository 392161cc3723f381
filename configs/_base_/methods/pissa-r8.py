# PiSSA: LoRA that starts at the weight's leading singular vectors.
method = dict(
    type='mmflora.PEFTConvNeXt', peft=dict(adapter=dict(type='PiSSA', rank=8))
)
