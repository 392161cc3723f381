# DyLoRA: each iteration trains a prefix of a rank that it draws, from 1 to 8;
# `tools/adapters.py truncate` takes one of them out.
method = dict(
    type='mmflora.PEFTConvNeXt',
    peft=dict(adapter=dict(type='DyLoRA', rank=8, alpha=16)),
)
