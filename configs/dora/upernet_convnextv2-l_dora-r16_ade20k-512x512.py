_base_ = [
    '../_base_/models/upernet_convnextv2-l.py',
    '../_base_/datasets/ade20k_512x512.py',
    '../_base_/schedules/adamw_160k.py',
    '../_base_/methods/dora-r16.py',
    '../_base_/default_runtime_mmseg.py',
]

model = dict(backbone=_base_.method)
