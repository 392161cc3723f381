# RandLoRA, scaled sums of frozen random low-rank matrices that reach full rank
# (Albert et al., 2025), by huggingface/peft.
method = dict(
    type='mmflora.PEFTConvNeXt',
    adapter=dict(type='HFPEFT', peft_type='RANDLORA', r=8),
)
