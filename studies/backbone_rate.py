# Does what changes the backbone need a lower learning rate than new heads?
# The other studies have one rate for both.
_base_ = './methods.py'

tasks = [
    dict(
        name='camvid',
        config='tasks/camvid.py',
        metric='mIoU',
        lrs=[3e-3, 1e-2],
    )
]
shares = [1.0, 0.3, 0.1]
changed = [
    dict(
        name='full-frozen-bn',
        method=dict(adapter=dict(type='Full'), exclude=r'(.*\.)?(bn\d|bn)'),
    ),
    dict(name='lora-r8', method='lora-r8'),
    dict(name='flora-large', method='flora-r16', budget='lora-r8-x1'),
]
methods = ['frozen'] + [
    dict(
        entry,
        name=f'{entry["name"]}-x{share:g}',
        cfg_options={
            f'optim_wrapper.paramwise_cfg.{kind}_lr_mult': share
            for kind in ('adapter', 'tuned')
        },
    )
    for entry in changed
    for share in shares
]
baselines = []
