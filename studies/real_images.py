# Every method on four kinds of dense prediction of real images.
#
#   python studies/prepare.py DATA
#   python tools/study.py studies/real_images.py
_base_ = './methods.py'

tasks = [
    dict(name='bccd', config='tasks/bccd.py', metric='pascal_voc/mAP'),
    dict(name='nuclei', config='tasks/nuclei.py', metric='coco/segm_mAP'),
    # New heads alone learn little in 300 iterations at 3e-4.
    dict(
        name='camvid',
        config='tasks/camvid.py',
        metric='mIoU',
        lrs=[1e-3, 3e-3, 1e-2],
    ),
    dict(name='boxes', config='tasks/boxes.py', metric='dota/mAP'),
]
