# FLoRA with nested channel ranks: the mean of prefixes of ranks 1, 2, 4, 8 and
# 16; `tools/adapters.py truncate` takes one of them out.
method = dict(
    type='mmflora.PEFTConvNeXt',
    peft=dict(adapter=dict(type='MatryoshkaFLoRA', rank=16)),
)
