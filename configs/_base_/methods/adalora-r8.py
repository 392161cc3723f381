# AdaLoRA (Zhang et al., 2023), by huggingface/peft: LoRA of 12 ranks per layer
# (k times as many for a k×k kernel). A schedule drops the least important
# ranks, until 8 per layer are left on average. The schedule is
# AdaLoRAHook's, which a config adds. A long run also sets `tinit` and
# `tfinal`, the steps before the first and behind the last drop.
method = dict(
    type='mmflora.PEFTConvNeXt',
    peft=dict(
        adapter=dict(type='HFPEFT', peft_type='ADALORA', init_r=12, target_r=8)
    ),
)
method_hooks = [dict(type='mmflora.AdaLoRAHook')]
