# SSF: a scale and a shift of each layer's output channels. Behind a norm these
# are the norm's own weight and bias.
method = dict(
    type='mmflora.PEFTConvNeXt',
    peft=dict(
        adapter=dict(type='SSF'),
        targets={
            '.*': {},
            r'(.*\.norm|stem\.1|.*\.downsample\.0)': dict(type='NormTuning'),
        },
    ),
)
