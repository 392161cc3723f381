# LoRand: bottlenecks of synthesized matrices behind the MLPs.
method = dict(
    type='mmflora.PEFTConvNeXt',
    peft=dict(adapter=dict(type='LoRand', branches=2, kernel=8)),
)
