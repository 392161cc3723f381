# BitFit: the biases of convolutions, linear layers and norms train. The shift
# of ConvNeXt-V2's response norm is not counted as a bias: its authors call it
# `beta`, and the paper's 0.2 M leave it out.
method = dict(
    type='mmflora.PEFTConvNeXt',
    peft=dict(adapter=dict(type='BitFit'), exclude=r'.*\.grn'),
)
