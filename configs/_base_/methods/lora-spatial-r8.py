# LoRA of convolutions by two convolutions: a kernel down to the rank, then a
# pointwise one up. On a depthwise kernel it costs a fraction of loralib's
# form.
method = dict(
    type='mmflora.PEFTConvNeXt',
    peft=dict(adapter=dict(type='LoRA', rank=8, alpha=16, form='spatial')),
)
