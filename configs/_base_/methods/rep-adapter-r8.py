# RepAdapter before attention and MLP, merged into their first layers.
method = dict(
    type='mmflora.PEFTConvNeXt',
    peft=dict(
        adapter=dict(type='RepAdapter', rank=8),
        targets=r'.*\.(qkv|mlp\.fc1|ffn\.layers\.0\.0)',
    ),
)
