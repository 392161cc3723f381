# GPS: the entry of each output channel that the task moves most.
method = dict(
    type='mmflora.PEFTConvNeXt',
    peft=dict(
        adapter=dict(type='GPS', per_neuron=1),
        calibration=dict(batches=8),
    ),
)
