# LoKr, a Kronecker product with a low-rank factor (Yeh et al., LyCORIS, 2024),
# by huggingface/peft.
method = dict(
    type='mmflora.PEFTConvNeXt',
    peft=dict(adapter=dict(type='HFPEFT', peft_type='LOKR', r=8)),
)
