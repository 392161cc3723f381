# Nuclei under a fluorescence microscope and in stained tissue: trained on one
# kind, tested on both. Learning rates are chosen on the kind that was trained
# on: the other one is not known then.
_base_ = './methods.py'

names = (
    *('full-frozen-bn', 'frozen', 'lora-r8', 'lora-spatial-r8'),
    *('flora-small', 'flora-large'),
)
methods = [_base_.by_name[name] for name in names]
baselines = [*names[:-2]]

# 3e-3 was at the end of the grid of the other studies for most.
lrs = [1e-3, 3e-3, 1e-2]
kinds = dict(fluorescence='tissue', tissue='fluorescence')
tasks = [
    dict(
        name=f'{train}-{test}',
        config='tasks/nuclei.py',
        metric='coco/segm_mAP',
        cfg_options={
            'train_dataloader.dataset.ann_file': f'train_{train}.json'
        },
        val=dict(ann_file=f'val_{train}.json'),
        test=dict(ann_file=f'test_{test}.json'),
        trained_as='' if train == test else f'{train}-{train}',
    )
    for train, other in kinds.items()
    for test in (train, other)
]
