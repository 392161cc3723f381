# Norm tuning: scale and shift of every norm train, response norms included.
method = dict(
    type='mmflora.PEFTConvNeXt', peft=dict(adapter=dict(type='NormTuning'))
)
