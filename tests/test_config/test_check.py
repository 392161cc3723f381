"""What a config names and is not there is one clear error at start."""

import json

import pytest
import torch
from mmengine.config import Config

from mmflora.config.check import check_paths, check_weights_file


@pytest.fixture
def data(tmp_path, monkeypatch):
    """A working directory with a data set of one image."""
    monkeypatch.chdir(tmp_path)
    for folder in ('data/coco/annotations', 'data/coco/train', 'weights'):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / 'data/coco/annotations/train.json').write_text(
        json.dumps(dict(images=[], annotations=[], categories=[]))
    )
    (tmp_path / 'data/coco/train/1.jpg').touch()
    torch.save(dict(), tmp_path / 'weights/base.pth')
    return tmp_path


def make_config(**changes):
    dataset = dict(
        type='CocoDataset',
        data_root='data/coco/',
        ann_file='annotations/train.json',
        data_prefix=dict(img='train/'),
    )
    cfg = Config(
        dict(
            model=dict(
                type='MaskRCNN',
                backbone=dict(
                    type='mmflora.FLoRAConvNeXt',
                    init_cfg=dict(
                        type='Pretrained', checkpoint='weights/base.pth'
                    ),
                ),
            ),
            train_dataloader=dict(dataset=dataset),
            val_dataloader=dict(dataset=dict(dataset)),
            test_dataloader=dict(dataset=dict(dataset)),
            val_evaluator=dict(
                type='CocoMetric',
                ann_file='data/coco/annotations/train.json',
            ),
            test_evaluator=[
                dict(
                    type='CocoMetric',
                    ann_file='data/coco/annotations/train.json',
                )
            ],
        )
    )
    cfg.merge_from_dict(changes)
    return cfg


def message_of(cfg, stage='train', kind=FileNotFoundError):
    with pytest.raises(kind) as caught:
        check_paths(cfg, stage)
    return str(caught.value)


@pytest.mark.parametrize('stage', ['train', 'test'])
def test_accepts_what_is_there(data, stage):
    check_paths(make_config(), stage)


def test_names_root_expectation_and_remedy(data):
    cfg = make_config(
        **{
            'train_dataloader.dataset.data_root': 'data/cocoo',
            'data_help': 'Unpack COCO there.',
        }
    )
    text = message_of(cfg)
    assert 'train_dataloader.dataset.data_root (CocoDataset)' in text
    assert f"'data/cocoo' does not exist ('{data}/data' does)" in text
    assert 'Unpack COCO there.' in text
    assert '--cfg-options train_dataloader.dataset.data_root=' in text
    assert 'ann_file' not in text, 'a missing root is one error, not three'


@pytest.mark.parametrize(
    ('key', 'value', 'what'),
    [
        ('ann_file', 'annotations/nix.json', 'file'),
        ('data_prefix.img', 'nix/', 'folder'),
        ('data_prefix.img', 'empty/', 'folder'),
        ('ann_file', 'annfiles/', 'folder'),
    ],
)
def test_reports_annotations_and_images(data, key, value, what):
    (data / 'data/coco/empty').mkdir()
    cfg = make_config(**{f'val_dataloader.dataset.{key}': value})
    text = message_of(cfg)
    assert f"{key} (CocoDataset): {what} 'data/coco/{value}'" in text
    assert ('is empty' in text) == ('empty' in value)
    check_paths(cfg, 'test')


def test_lists_everything_at_once(data):
    cfg = make_config(
        **{
            'train_dataloader.dataset.ann_file': 'a.json',
            'val_dataloader.dataset.ann_file': 'b.json',
            'val_evaluator.ann_file': 'c.json',
        }
    )
    text = message_of(cfg)
    assert 'names 3 path(s)' in text
    assert all(f'{name}.json' in text for name in 'abc')


def test_looks_into_wrapped_data_sets(data):
    inner = make_config().train_dataloader.dataset
    missing = dict(inner, ann_file='nix.json')
    cfg = make_config()
    cfg.train_dataloader.dataset = dict(
        type='RepeatDataset',
        times=3,
        dataset=dict(type='ConcatDataset', datasets=[inner, missing]),
    )
    assert 'dataset.dataset.datasets.1.ann_file' in message_of(cfg)


@pytest.mark.parametrize('stage', ['train', 'test'])
def test_checks_the_file_of_the_evaluator(data, stage):
    evaluator = dict(type='CocoMetric', ann_file='data/other.json')
    name = 'val_evaluator' if stage == 'train' else 'test_evaluator'
    cfg = make_config()
    cfg[name] = evaluator
    text = message_of(cfg, stage)
    assert f"{name}.ann_file: file 'data/other.json' does not" in text


def test_leaves_other_backends_alone(data):
    cfg = make_config()
    cfg.train_dataloader.dataset.data_root = 's3://bucket/coco'
    cfg.val_dataloader.dataset.update(
        data_root='nix', backend_args=dict(backend='petrel')
    )
    cfg.val_evaluator.ann_file = 's3://bucket/coco.json'
    check_paths(cfg, 'train')


def test_training_without_validation_needs_no_validation_data(data):
    cfg = make_config(val_dataloader=None, val_evaluator=None)
    check_paths(cfg, 'train')


@pytest.mark.parametrize('stage', ['train', 'test'])
def test_reports_a_missing_base(data, stage):
    cfg = make_config(weights_help='Train it first.')
    wrapped = dict(
        type='mmflora.PEFTBackbone',
        adapter=None,
        backbone=dict(
            type='mmdet.ResNet',
            init_cfg=dict(type='Pretrained', checkpoint='weights/nix.pth'),
        ),
    )
    cfg.model.backbone = wrapped
    text = message_of(cfg, stage)
    key = 'model.backbone.backbone.init_cfg.checkpoint'
    assert text.startswith(f'{key}: ')
    assert 'weights/nix.pth' in text
    assert 'Train it first.' in text


def test_reports_a_truncated_base(data):
    base = data / 'weights/base.pth'
    base.write_bytes(base.read_bytes()[:-30])
    assert 'truncated' in message_of(make_config(), kind=ValueError)


def test_needs_a_plain_base_only_to_train(data):
    cfg = make_config()
    cfg.model.backbone.update(
        type='mmflora.ConvNeXt', init_cfg=dict(checkpoint='nix.pth')
    )
    check_paths(cfg, 'test')
    assert 'nix.pth' in message_of(cfg, 'train')


def test_leaves_weights_behind_a_scheme_to_their_loader(data):
    cfg = make_config()
    cfg.model.backbone.init_cfg.checkpoint = 'timm://convnextv2_atto.fcmae'
    check_paths(cfg, 'train')


def test_checks_load_from(data):
    cfg = make_config(load_from='nix.pth')
    assert message_of(cfg).startswith('load_from: ')


def test_weights_file_error_says_who_asked():
    with pytest.raises(FileNotFoundError, match=r"^--resume: .*'nix\.pth'"):
        check_weights_file('--resume', 'nix.pth')
