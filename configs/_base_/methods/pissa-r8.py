# PiSSA: LoRA that starts at the weight's leading singular vectors.
method = dict(type='mmflora.PEFTConvNeXt', adapter=dict(type='PiSSA', rank=8))
