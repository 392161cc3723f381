# Rein: 100 tokens for each block, and two matrices for all of them.
method = dict(
    type='mmflora.PEFTInternViT',
    peft=dict(
        adapter=dict(type='Rein', tokens=100, rank=16, patch_size=14),
        targets='.*',
    ),
)
