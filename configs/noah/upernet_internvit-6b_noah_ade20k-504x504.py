_base_ = [
    '../_base_/models/upernet_internvit-6b.py',
    '../_base_/datasets/ade20k_504x504.py',
    '../_base_/schedules/adamw_160k.py',
    '../_base_/methods/internvit/noah.py',
    '../_base_/default_runtime_mmseg.py',
]

model = dict(backbone=_base_.method)
