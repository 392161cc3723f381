# OLoRA: LoRA that starts at an orthonormal basis of the weight.
method = dict(type='mmflora.PEFTConvNeXt', adapter=dict(type='OLoRA', rank=8))
