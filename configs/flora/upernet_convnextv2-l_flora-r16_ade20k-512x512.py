_base_ = [
    '../_base_/models/upernet_convnextv2-l.py',
    '../_base_/datasets/ade20k_512x512.py',
    '../_base_/schedules/adamw_160k.py',
    '../_base_/methods/flora-r16.py',
    '../_base_/default_runtime_mmseg.py',
]

# bfloat16 inside the backbone, float32 features out of it, which the operators
# of the heads need. On a GPU without bfloat16: autocast=None.
model = dict(backbone=dict(_base_.method, autocast='bfloat16'))
