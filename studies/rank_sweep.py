# Is the core low-rank? The paper's figure 3: metric by rank.
_base_ = './methods.py'

tasks = [dict(name='camvid', config='tasks/camvid.py', metric='mIoU')]
methods = [
    dict(name='flora', method='flora-r16', ranks=[1, 2, 4, 8, 16, 32]),
    dict(name='lora', method='lora-r8', ranks=[1, 2, 4, 8, 16, 32]),
    dict(name='dora', method='dora-r8', ranks=[1, 2, 4, 8, 16, 32]),
]
baselines = []
