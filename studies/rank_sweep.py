# Is the core low-rank? The paper's figure 3: metric by rank. The heads have
# the rate that did best with a frozen backbone, adapters a tenth of it, as
# backbone_rate.py suggests.
_base_ = './methods.py'

tasks = [dict(name='camvid', config='tasks/camvid.py', metric='mIoU')]
slow = {'optim_wrapper.paramwise_cfg.adapter_lr_mult': 0.1}
methods = [
    dict(name=kind, method=method, ranks=ranks, cfg_options=slow)
    for kind, method, ranks in (
        ('flora', 'flora-r16', [1, 4, 16, 64]),
        # Above 16 they would have more parameters than the backbone.
        ('lora', 'lora-r8', [1, 4, 16]),
        ('dora', 'dora-r8', [1, 4, 16]),
    )
]
baselines = []
lrs = [1e-2]
