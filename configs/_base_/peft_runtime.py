# What a run with a frozen base needs beside its model: mmflora's modules,
# hooks and constructor of optimizers. A config of your own takes it over by
#
#   _base_ = ['mmdet::…', 'mmflora::_base_/peft_runtime.py']
#   default_hooks, optim_wrapper = _base_.peft_runtime
#
# and keeps whatever else its other base says of hooks and optimizer.
custom_imports = dict(imports=['mmflora'], allow_failed_imports=False)

peft_hooks = dict(
    # Saves what trains, and the name and content hash of the base.
    checkpoint=dict(type='mmflora.AdapterCheckpointHook'),
    # Stops after the first iteration if an adapter gets no gradient.
    adapter_gradient=dict(type='mmflora.AdapterGradientHook'),
    # A resumed run repeats the losses of the uninterrupted one.
    iteration_seed=dict(type='mmflora.IterationSeedHook'),
    # Gathers what the starts of some methods need of the training data.
    calibration=dict(type='mmflora.CalibrationHook'),
    # Draws the rank of each iteration where a method trains nested ranks so.
    sampled_rank=dict(type='mmflora.SampledRankHook'),
)
peft_runtime = [
    peft_hooks,
    dict(constructor='mmflora.PEFTOptimWrapperConstructor'),
]
