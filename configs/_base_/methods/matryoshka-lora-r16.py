# MatryoshkaLoRA: a sum of LoRAs of ranks 1, 2, 4, 8 and 16, each a prefix of
# the next; `tools/adapters.py truncate` takes one of them out.
method = dict(
    type='mmflora.PEFTConvNeXt',
    peft=dict(adapter=dict(type='MatryoshkaLoRA', rank=16)),
)
