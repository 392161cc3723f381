"""Data, annotations and heads must have the same classes, told at start."""

import json

import pytest
from mmengine.config import Config

from mmflora.config.classes import check_classes

NAMES = ('plane', 'ship', 'bridge')


def make_config(folder, scope='mmdet', **changes):
    data = dict(type='CocoDataset', ann_file='train.json')
    heads = dict(
        rpn_head=dict(type='RPNHead', num_classes=1),
        roi_head=dict(
            bbox_head=[dict(num_classes=3), dict(num_classes=3)],
            mask_head=dict(num_classes=3),
        ),
    )
    if scope == 'mmrotate':
        data = dict(type='DOTADataset', ann_file='labels')
    if scope == 'mmseg':
        data = dict(type='ADE20KDataset')
        heads = dict(
            decode_head=dict(num_classes=3),
            auxiliary_head=[dict(num_classes=3)],
        )
    data.update(
        data_root=str(folder), metainfo=dict(classes=NAMES), pipeline=[]
    )
    wrapped = dict(type='RepeatDataset', times=2, dataset=data)
    loaders = dict(
        train_dataloader=dict(dataset=wrapped),
        val_dataloader=dict(dataset=dict(data)),
        test_dataloader=dict(dataset=dict(data)),
    )
    cfg = Config(dict(default_scope=scope, model=heads, **loaders))
    cfg.merge_from_dict(changes)
    return cfg


@pytest.fixture
def folder(tmp_path):
    """Annotations of COCO's and DOTA's kind with the three names."""
    categories = [dict(id=i, name=name) for i, name in enumerate(NAMES)]
    content = dict(images=[], categories=categories, annotations=[])
    (tmp_path / 'train.json').write_text(json.dumps(content, indent=2))
    (tmp_path / 'labels').mkdir()
    lines = [f'1 2 3 4 5 6 7 8 {name} 0' for name in NAMES]
    (tmp_path / 'labels/a.txt').write_text('\n'.join(lines))
    return tmp_path


SCOPES = ['mmdet', 'mmrotate', 'mmseg']


@pytest.mark.parametrize('stage', ['train', 'test'])
@pytest.mark.parametrize('scope', SCOPES)
def test_agreement_passes(folder, scope, stage):
    check_classes(make_config(folder, scope), stage)


TRAIN = 'train_dataloader.dataset.dataset'
BOX = 'roi_head.bbox_head.1'
WRONG = {
    'another number in a head': (
        'mmdet',
        {f'model.{BOX}.num_classes': 4},
        rf'has 3 classes, model.{BOX}.num_classes is 4',
    ),
    'another number in the second head': (
        'mmseg',
        {'model.auxiliary_head.0.num_classes': 150},
        r'auxiliary_head.0.num_classes is 150',
    ),
    'names of the data set class': (
        'mmrotate',
        {f'{TRAIN}.metainfo': None},
        r'dataset.dataset \(DOTADataset\) has 15 classes',
    ),
    'misspelt for COCO': (
        'mmdet',
        {f'{TRAIN}.metainfo.classes': ['plane', 'shp', 'bridge']},
        r"train.json' has no category 'shp'; the nearest is 'ship'",
    ),
    'misspelt for DOTA': (
        'mmrotate',
        {
            'val_dataloader.dataset.metainfo.classes': [
                'plan',
                'ship',
                'bridge',
            ]
        },
        r"objects of 'plane', no class; the nearest is 'plan'",
    ),
}


@pytest.mark.parametrize(
    ('scope', 'changes', 'message'), WRONG.values(), ids=WRONG
)
def test_disagreement_is_told(folder, scope, changes, message):
    with pytest.raises(ValueError, match=message):
        check_classes(make_config(folder, scope, **changes), 'train')
    if not any(key.startswith('model') for key in changes):
        check_classes(make_config(folder, scope, **changes), 'test')


@pytest.mark.parametrize('text', ['', '[]', '{"categories": 1}', '{"cat'])
def test_what_cannot_be_read_is_left_to_the_run(folder, text):
    (folder / 'train.json').write_text(text)
    check_classes(make_config(folder), 'train')
    (folder / 'train.json').unlink()
    check_classes(make_config(folder), 'train')


def test_words_of_a_prompt_are_no_classes(folder):
    cfg = make_config(folder)
    cfg.model.roi_head.mask_head.num_classes = 256
    cfg.model.language_model = dict(type='BertModel')
    check_classes(cfg, 'train')
