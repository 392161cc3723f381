_base_ = [
    '../_base_/models/upernet_internvit-6b.py',
    '../_base_/datasets/ade20k_504x504.py',
    '../_base_/schedules/adamw_160k.py',
    '../_base_/methods/internvit/flora-r16.py',
    '../_base_/engines/deepspeed-zero2.py',
    '../_base_/default_runtime_mmseg.py',
]

# DeepSpeed takes parameters of one type alone, so the base is in float32 too.
model = dict(backbone=dict(_base_.method, dtype=None))
