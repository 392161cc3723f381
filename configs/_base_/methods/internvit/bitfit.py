# BitFit: the biases of the backbone train, in float32 whatever the type of the
# base. The blocks' linear layers (except qkv) and the patch embedding have
# biases.
method = dict(
    type='mmflora.PEFTInternViT',
    peft=dict(adapter=dict(type='BitFit'), targets='.*'),
)
