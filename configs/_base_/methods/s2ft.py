# S²FT: 5 % of the channels, rows of each first layer of an MLP and columns of
# the second; rows of all other layers.
method = dict(
    type='mmflora.PEFTConvNeXt',
    peft=dict(
        adapter=dict(type='S2FT', density=0.05),
        targets={r'.*mlp\.fc2': dict(side='columns'), '.*': {}},
    ),
)
