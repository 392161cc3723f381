# DOTA-v1.0, cut into 1024x1024 patches by MMRotate, two images per GPU: 16 on
# eight of them. MMRotate validates on the pictures that it trains on
# (`trainval`). Here the two are separate, so that the mAP is meaningful. To
# train for the test server, put `trainval/` in both places.
_base_ = 'mmrotate::_base_/datasets/dota.py'

data_help = (
    "Cut DOTA-v1.0 (https://captain-whu.github.io/DOTA) with MMRotate's "
    'tools/data/dota/split/img_split.py and its ss_train.json and '
    'ss_val.json into data/split_ss_dota/{train,val}/{images,annfiles}/.'
)

train_dataloader = dict(
    dataset=dict(
        ann_file='train/annfiles/', data_prefix=dict(img_path='train/images/')
    )
)
val_dataloader = dict(
    dataset=dict(
        ann_file='val/annfiles/', data_prefix=dict(img_path='val/images/')
    )
)
# Validation and test read the same base file, so one dict serves both.
test_dataloader = val_dataloader
