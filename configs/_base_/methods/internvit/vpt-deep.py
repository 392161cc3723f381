# VPT-deep: 50 prompt tokens in each block.
method = dict(
    type='mmflora.PEFTInternViT',
    peft=dict(
        adapter=dict(type='VPT', tokens=50, form='deep', patch_size=14),
        targets='.*',
    ),
)
