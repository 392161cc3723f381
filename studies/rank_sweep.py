# Is the core low-rank? The paper's figure 3: metric by rank, on the task of
# domain_gap.py on which adapters pay, at the rate that did best there with a
# frozen backbone, LoRA and FLoRA alike.
_base_ = './domain_gap.py'

work_dir = 'work_dirs/sweeps'
tasks = [dict(_base_.tasks[0], name='fluorescence')]
methods = [
    'frozen',
    dict(name='flora', method='flora-r16', ranks=[1, 4, 16, 64]),
    # Above 16 they would have more parameters than the backbone.
    dict(name='lora', method='lora-r8', ranks=[1, 4, 16]),
    dict(name='dora', method='dora-r8', ranks=[1, 4, 16]),
]
baselines = ['frozen']
lrs = [3e-3]
