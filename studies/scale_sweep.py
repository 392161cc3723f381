# Is the scale insensitive? The paper's figure 5: metric by the scale of the
# update, at the rates of rank_sweep.py.
_base_ = './methods.py'

scales = [0.0625, 0.25, 1.0, 4.0, 16.0]
tasks = [dict(name='camvid', config='tasks/camvid.py', metric='mIoU')]
methods = [
    dict(
        name=f'flora-s{scale:g}',
        method=dict(type='FLoRA', rank=16, kernel_rank=2, scale=scale),
    )
    for scale in scales
]
methods += [
    # The scale of LoRA is alpha over the rank.
    dict(
        name=f'{kind.lower()}-s{scale:g}',
        method=dict(type=kind, rank=8, alpha=8 * scale, form='loralib'),
    )
    for kind in ('LoRA', 'DoRA')
    for scale in scales
]
slow = {'optim_wrapper.paramwise_cfg.adapter_lr_mult': 0.1}
methods = [dict(method, cfg_options=slow) for method in methods]
baselines = []
lrs = [1e-2]
