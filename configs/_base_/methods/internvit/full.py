# Full fine-tuning: every parameter of the backbone trains. It is kept in
# float32, in which small steps are not lost; autocast computes in bfloat16.
method = dict(
    type='mmflora.PEFTInternViT',
    dtype=None,
    peft=dict(adapter=dict(type='Full'), targets='.*'),
)
