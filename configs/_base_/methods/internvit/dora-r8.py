# DoRA of the linear layers of all blocks, as FLoRA has it.
method = dict(
    type='mmflora.PEFTInternViT',
    peft=dict(adapter=dict(type='DoRA', rank=8, alpha=16)),
)
