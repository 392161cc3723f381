# SNELLA: SNELL whose layers compete, by the shares that SNELLAHook gives them.
method = dict(
    type='mmflora.PEFTConvNeXt',
    peft=dict(adapter=dict(type='SNELLA', rank=16, sparsity=0.9)),
)
method_hooks = [dict(type='mmflora.SNELLAHook')]
