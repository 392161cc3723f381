# Block-LoRA: four blocks of B behind one block of A.
method = dict(
    type='mmflora.PEFTConvNeXt',
    peft=dict(adapter=dict(type='BlockLoRA', rank=16, blocks=4)),
)
