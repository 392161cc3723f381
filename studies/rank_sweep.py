# Is the core low-rank? The paper's figure 3: metric by rank, at one learning
# rate, the best of real_images.py for most methods.
_base_ = './methods.py'

tasks = [dict(name='camvid', config='tasks/camvid.py', metric='mIoU')]
methods = [
    dict(name='flora', method='flora-r16', ranks=[1, 4, 16, 64]),
    dict(name='lora', method='lora-r8', ranks=[1, 4, 16, 64]),
    dict(name='dora', method='dora-r8', ranks=[1, 4, 16, 64]),
]
baselines = []
lrs = [3e-3]
