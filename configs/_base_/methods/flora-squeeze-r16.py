# LoRA-Squeeze for FLoRA: rank 16, squeezed to 8 after a third of the training,
# to 4 after another third. `tools/adapters.py truncate --rank 4` takes the
# zeros off.
method = dict(
    type='mmflora.PEFTConvNeXt',
    peft=dict(adapter=dict(type='FLoRA', rank=16)),
)
method_hooks = [dict(type='mmflora.RankAnnealingHook', ranks=[8, 4])]
