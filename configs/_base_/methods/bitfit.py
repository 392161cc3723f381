# BitFit: the biases of convolutions, linear layers and norms train. The shift
# of ConvNeXt-V2's response norm is none by its authors' name (`beta`), and the
# paper's 0.2 M are without it.
method = dict(
    type='mmflora.PEFTConvNeXt',
    peft=dict(adapter=dict(type='BitFit'), exclude=r'.*\.grn'),
)
