# SCT: a matrix on the salient channels of each sum.
method = dict(
    type='mmflora.PEFTConvNeXt',
    peft=dict(
        adapter=dict(type='SCT', salient=96), calibration=dict(batches=8)
    ),
)
