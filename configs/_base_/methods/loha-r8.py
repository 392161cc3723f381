# LoHa, a Hadamard product of two low-rank updates (Hyeon-Woo et al., FedPara,
# 2022), by huggingface/peft.
method = dict(
    type='mmflora.PEFTConvNeXt',
    peft=dict(adapter=dict(type='HFPEFT', peft_type='LOHA', r=8)),
)
