# SuperLoRA: all updates in one row, folded into a tensor of three modes.
method = dict(
    type='mmflora.PEFTConvNeXt',
    peft=dict(adapter=dict(type='SuperLoRA', rank=16)),
)
