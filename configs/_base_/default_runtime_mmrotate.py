# MMRotate's runtime, with mmflora's modules, hooks and checkpoints.
_base_ = ['mmrotate::_base_/default_runtime.py', './peft_runtime.py']

custom_imports = dict(imports=['mmflora', 'mmflora.evaluation'])
default_hooks = dict(
    _base_.peft_hooks,
    checkpoint=dict(
        type='mmflora.AdapterCheckpointHook', interval=1, max_keep_ckpts=3
    ),
)
custom_hooks = []
