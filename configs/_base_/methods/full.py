# Full fine-tuning: every parameter of the pre-trained backbone trains.
method = dict(
    type='mmflora.PEFTConvNeXt', peft=dict(adapter=dict(type='Full'))
)
