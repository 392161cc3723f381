# Mask2Former on Swin-L as in MMSegmentation's
# mask2former_swin-l-in22k-384x384-pre_8xb2-160k_ade20k-640x640.py, with its
# stochastic depth. The norms of the outputs are new. A base that trains in
# full has a tenth of the learning rate, as there; adapters have all of it.
_base_ = [
    '../models/mask2former.py',
    '../backbones/swin-l.py',
    '../datasets/ade20k_640x640.py',
    '../schedules/mask2former_160k.py',
    '../default_runtime_mmseg.py',
]

custom_imports = dict(imports=['mmflora', 'mmdet.models'])
model = dict(
    backbone=dict(
        type='mmflora.PEFTBackbone',
        backbone=dict(_base_.swin, drop_path_rate=0.3),
        peft=dict(new_params=r'norm\d\..*', autocast='bfloat16'),
    ),
    decode_head=dict(in_channels=[192, 384, 768, 1536]),
)
full_finetuning = dict(tuned_lr_mult=0.1)
