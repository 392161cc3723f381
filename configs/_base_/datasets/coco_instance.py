# COCO 2017 instance segmentation as in MMDetection, four images per GPU: 32
# on eight of them.
_base_ = 'mmdet::_base_/datasets/coco_instance.py'

# The tools add this to their message when something is missing.
data_help = (
    'COCO 2017 (https://cocodataset.org/#download) unpacks to annotations/, '
    'train2017/ and val2017/ in data/coco/.'
)

train_dataloader = dict(batch_size=4, num_workers=4)
