# MMRotate's runtime, with mmflora's modules and its checkpoints.
_base_ = 'mmrotate::_base_/default_runtime.py'

custom_imports = dict(
    imports=['mmflora', 'mmflora.evaluation'],
    allow_failed_imports=False,
)

custom_hooks = [
    # Stops after the first iteration if an adapter gets no gradient.
    dict(type='mmflora.AdapterGradientHook'),
    # A resumed run repeats the losses of the uninterrupted one.
    dict(type='mmflora.IterationSeedHook'),
]

default_hooks = dict(
    checkpoint=dict(
        type='mmflora.AdapterCheckpointHook', interval=1, max_keep_ckpts=3
    )
)
