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
methods = [_base_.by_name[name] for name in names]
methods += [
    dict(
        method,
        name=f'{method["name"]}-x{share:g}',
        cfg_options={
            f'optim_wrapper.paramwise_cfg.{kind}_lr_mult': share
            for kind in ('adapter', 'tuned')
        },
    )
    for method in methods
    if method['name'] != 'frozen'
    for share in (0.3, 0.1)
]
baselines = [*names]
