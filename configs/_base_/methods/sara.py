# SaRA: the smallest 10 % of each weight's entries. The nuclear norm of the
# masked weights and the reuse of entries are SaRAHook's, which a config adds.
method = dict(
    type='mmflora.PEFTConvNeXt',
    peft=dict(adapter=dict(type='SaRA', density=0.1)),
)
method_hooks = [dict(type='mmflora.SaRAHook')]
