# MMSegmentation's runtime, with mmflora's modules, hooks and checkpoints.
# Written out, because MMEngine does not resolve `mmseg::` bases.
_base_ = './peft_runtime.py'

default_scope = 'mmseg'
custom_hooks = []

env_cfg = dict(
    cudnn_benchmark=True,
    mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0),
    dist_cfg=dict(backend='nccl'),
)
default_hooks = dict(
    _base_.peft_hooks,
    timer=dict(type='IterTimerHook'),
    logger=dict(type='LoggerHook', interval=50, log_metric_by_epoch=False),
    param_scheduler=dict(type='ParamSchedulerHook'),
    checkpoint=dict(
        type='mmflora.AdapterCheckpointHook',
        by_epoch=False,
        interval=16000,
        max_keep_ckpts=3,
    ),
    sampler_seed=dict(type='DistSamplerSeedHook'),
    visualization=dict(type='SegVisualizationHook'),
)
vis_backends = [dict(type='LocalVisBackend')]
visualizer = dict(
    type='SegLocalVisualizer', vis_backends=vis_backends, name='visualizer'
)
log_processor = dict(by_epoch=False)

log_level = 'INFO'
load_from = None
resume = False
