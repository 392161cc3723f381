# DINO on all four stages of Swin-L, five scales: MMDetection's recipe of
# dino-5scale_swin-l_8xb2-12e_coco.py, with its data, schedule and stochastic
# depth. The norms of the outputs are new. A base that trains in full has a
# tenth of the learning rate, as there; adapters have all of it.
_base_ = [
    'mmdet::dino/dino-5scale_swin-l_8xb2-12e_coco.py',
    '../backbones/swin-l.py',
    '../peft_runtime.py',
]

data_help = (
    'COCO 2017 (https://cocodataset.org/#download) unpacks to annotations/, '
    'train2017/ and val2017/ in data/coco/.'
)

model = dict(
    backbone=dict(
        _delete_=True,
        type='mmflora.PEFTBackbone',
        backbone=dict(_base_.swin, drop_path_rate=0.2, with_cp=True),
        peft=dict(new_params=r'norm\d\..*', autocast='bfloat16'),
    )
)
optim_wrapper = dict(
    constructor='mmflora.PEFTOptimWrapperConstructor',
    paramwise_cfg=dict(_delete_=True),
)
default_hooks = dict(_base_.peft_hooks)
custom_hooks = []
full_finetuning = dict(tuned_lr_mult=0.1)
