# LoRA-XS: a core between frozen singular vectors of the weight.
method = dict(
    type='mmflora.PEFTConvNeXt',
    peft=dict(adapter=dict(type='LoRAXS', rank=8, alpha=16)),
)
