# Does what changes the backbone need a lower learning rate than new heads?
# The other studies have one rate for both. Runs at one rate are those of
# real_images.py, in whose folder these go.
_base_ = './methods.py'

work_dir = 'work_dirs/real_images'
tasks = [
    dict(
        name='camvid',
        config='tasks/camvid.py',
        metric='mIoU',
        lrs=[3e-3, 1e-2],
    )
]
names = ('full-frozen-bn', 'frozen', 'lora-r8', 'flora-large')
methods = [
    method
    for method in _base_.methods
    if (method if isinstance(method, str) else method['name']) in names
]
methods += [
    dict(
        entry,
        name=f'{entry["name"]}-x{share:g}',
        cfg_options={
            f'optim_wrapper.paramwise_cfg.{kind}_lr_mult': share
            for kind in ('adapter', 'tuned')
        },
    )
    for entry in (
        method
        if isinstance(method, dict)
        else dict(name=method, method=method)
        for method in methods
    )
    if entry['name'] != 'frozen'
    for share in (0.3, 0.1)
]
baselines = [*names]
