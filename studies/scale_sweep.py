# Is the scale insensitive? The paper's figure 5: metric by the scale of the
# update, on the task and at the rate of rank_sweep.py.
_base_ = './rank_sweep.py'

scales = [0.0625, 0.25, 1.0, 4.0, 16.0]
methods = [
    'frozen',
    # Scale 4, the paper's. These runs are those of the ranks.
    dict(
        name='flora-r16',
        method='flora-r16',
        rank=16,
        curve='flora-r16',
        at=dict(scale=4.0),
    ),
]
methods += [
    dict(
        name=f'flora-s{scale:g}',
        method=dict(type='FLoRA', rank=16, kernel_rank=2, scale=scale),
        curve='flora-r16',
        at=dict(scale=scale),
    )
    for scale in scales
    if scale != 4
]
methods += [
    # The scale of LoRA is alpha over the rank.
    dict(
        name=f'{kind.lower()}-s{scale:g}',
        method=dict(type=kind, rank=8, alpha=8 * scale, form='loralib'),
        curve=f'{kind.lower()}-r8',
        at=dict(scale=scale),
    )
    for kind in ('LoRA', 'DoRA')
    for scale in scales
]
