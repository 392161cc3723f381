# MMSegmentation's runtime, with mmflora's modules and its checkpoints.
# Written out, because MMEngine does not resolve `mmseg::` bases.
default_scope = 'mmseg'
custom_imports = dict(imports=['mmflora'], allow_failed_imports=False)

custom_hooks = [
    # Stops after the first iteration if an adapter gets no gradient.
    dict(type='mmflora.AdapterGradientHook'),
    # A resumed run repeats the losses of the uninterrupted one.
    dict(type='mmflora.IterationSeedHook'),
]

env_cfg = dict(
    cudnn_benchmark=True,
    mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0),
    dist_cfg=dict(backend='nccl'),
)
default_hooks = dict(
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
