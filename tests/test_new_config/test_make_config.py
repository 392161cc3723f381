"""A folder and a config give a config that says what it should, and runs."""

import json
import subprocess
import sys
from pathlib import Path
from runpy import run_path

import pytest
import torch
from data_folders import (
    FOLDERS,
    NAMES,
    coco,
    coco_masks,
    dota,
    index_masks,
    labelme_polygons,
    picture,
    voc,
    voc_lists,
    yolo_obb,
)
from mmengine.config import Config
from PIL import Image

from mmflora.config.build import build_model, read_config
from mmflora.config.check import check_paths
from mmflora.new_config.fit_for_task import FITTING
from mmflora.new_config.make_config import make_config
from mmflora.new_config.wishes import Wishes

LIKE = {
    'boxes': 'mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py',
    'masks': 'mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py',
    'rotated': 'mmrotate::oriented_rcnn/oriented-rcnn-le90_r50_fpn_1x_dota.py',
    'semantic': 'mmseg::upernet/upernet_r50_4xb4-80k_ade20k-512x512.py',
}


@pytest.fixture
def make(tmp_path, monkeypatch):
    """Make a config in an empty working directory; return it and the report.

    The data is in ``data``, unless it is written there before.
    """
    monkeypatch.chdir(tmp_path)

    def run(write, like, **options):
        if not (tmp_path / 'data').exists():
            write(tmp_path / 'data')
        report = make_config(Wishes('data', like, 'my_config.py', **options))
        return read_config('my_config.py'), report

    return run


# One for each way to write annotations; the readers have tests of their own.
FAST = {'voc', 'coco_masks', 'object_masks', 'dota', 'index_masks'}


@pytest.mark.parametrize(
    'name',
    [
        name if name in FAST else pytest.param(name, marks=pytest.mark.slow)
        for name in FOLDERS
    ],
)
def test_every_format_gives_data_sets_that_load(name, make):
    from mmengine.registry import DATASETS, init_default_scope

    write, _, task = FOLDERS[name]
    cfg, report = make(write, LIKE[task])
    check_paths(Config(dict(cfg.to_dict(), model={})), 'train')
    assert 'my_config_report.txt' in report
    with Image.open('my_config_samples.png') as sheet:
        assert sheet.width > 1000
    init_default_scope(cfg.default_scope)
    total = 0
    for split in ('train', 'val', 'test'):
        dataset = DATASETS.build(cfg[f'{split}_dataloader'].dataset)
        assert dataset.metainfo['classes'] == tuple(cfg.metainfo.classes)
        total += len(dataset.load_data_list())
        sample = dataset[0]['data_samples']
        if task == 'semantic':
            assert sample.gt_sem_seg.data.max() <= 2
        elif split == 'train':
            instances = sample.gt_instances
            assert len(instances.bboxes) > 0
            assert len(instances.labels) == len(instances.bboxes)
            if task == 'masks':
                assert len(instances.masks) == len(instances.bboxes)
    assert total == len(NAMES)


CLASSES_OF_HEADS = {
    'mmdet::cascade_rcnn/cascade-mask-rcnn_r50_fpn_1x_coco.py': coco_masks,
    'mmdet::mask2former/mask2former_r50_8xb2-lsj-50e_coco.py': coco_masks,
    'mmdet::rtmdet/rtmdet_s_8xb32-300e_coco.py': coco,
    'mmdet::yolox/yolox_s_8xb8-300e_coco.py': coco,
    'mmdet::pascal_voc/faster-rcnn_r50_fpn_1x_voc0712.py': coco,
    'mmdet::dino/dino-4scale_r50_8xb2-12e_coco.py': coco,
    'mmseg::mask2former/mask2former_r50_8xb2-160k_ade20k-512x512.py': (
        index_masks
    ),
    'mmseg::stdc/stdc1_4xb12-80k_cityscapes-512x1024.py': index_masks,
    'mmrotate::rotated_rtmdet/rotated_rtmdet_s-3x-dota.py': dota,
}


@pytest.mark.parametrize(
    'like',
    [
        *list(CLASSES_OF_HEADS)[:2],
        *(
            pytest.param(like, marks=pytest.mark.slow)
            for like in list(CLASSES_OF_HEADS)[2:]
        ),
    ],
)
def test_heads_of_every_kind_get_the_classes(like, make):
    """The model is built; its last layers have the classes of the data."""
    cfg, _ = make(CLASSES_OF_HEADS[like], like)
    count = len(cfg.metainfo.classes)
    text = json.dumps(cfg.model.to_dict(), default=str)
    for before in (80, 20, 150, 19, 15):
        assert f'"num_classes": {before}' not in text
        assert f'"num_things_classes": {before}' not in text
    model = build_model(cfg, weights=False, device='meta', sync_bn=False)
    sizes = {
        tuple(parameter.shape)[0]
        for name, parameter in model.named_parameters()
        if ('cls' in name or 'conv_seg' in name) and 'weight' in name
    }
    # With or without a class for the background.
    assert sizes & {count, count + 1}
    assert not sizes & {80, 81, 150, 151, 19, 15, 20, 21}
    for loss in json.loads(text).get('panoptic_head', {}).values():
        if isinstance(loss, dict) and 'class_weight' in loss:
            assert loss['class_weight'] == [1.0] * count + [0.1]


def test_wrapped_data_sets_and_switches_of_the_schedule(make):
    cfg, _ = make(coco, 'mmdet::yolox/yolox_s_8xb8-300e_coco.py')
    dataset = cfg.train_dataloader.dataset
    assert dataset.type == 'MultiImageMixDataset'
    assert dataset.dataset.ann_file == 'my_config_data/train.json'
    assert cfg.train_cfg.max_epochs == 2000  # one batch an epoch
    switch = cfg.custom_hooks[0]
    assert switch.num_last_epochs == 100  # 15 of 300
    assert [s.end for s in cfg.param_scheduler] == [33, 1900, 2000]

    cfg, _ = make(
        coco,
        'mmdet::rtmdet/rtmdet_s_8xb32-300e_coco.py',
        force=True,
        epochs=30,
    )
    assert cfg.train_cfg.dynamic_intervals == [(28, 1)]
    assert cfg.custom_hooks[1].switch_epoch == 28
    assert cfg.param_scheduler[1].T_max == 15


def test_the_schedule_is_cut_for_few_images(make):
    cfg, _ = make(index_masks, LIKE['semantic'])
    assert cfg.train_cfg.max_iters == 2000  # of 80,000
    assert cfg.train_cfg.val_interval == 166
    assert cfg.param_scheduler[0].end == 2000
    assert cfg.default_hooks.checkpoint.interval == 166
    # 4xb4 in the name: 0.01 for 16 images per step.
    assert cfg.train_dataloader.batch_size == 3  # all that there are
    assert cfg.optim_wrapper.optimizer.lr == 0.01 * 3 / 16

    cfg, _ = make(index_masks, LIKE['semantic'], force=True, gpus=4)
    assert cfg.optim_wrapper.optimizer.lr == 0.01 * 12 / 16
    assert cfg.auto_scale_lr.base_batch_size == 12


def test_small_images_are_enlarged_twofold_at_most(make):
    cfg, report = make(coco, LIKE['boxes'])
    scale = cfg.val_dataloader.dataset.pipeline[1].scale
    assert scale == (160, 96)  # the images have 64x48
    assert '160x96 instead of 1333x800' in report


def test_the_config_is_short_and_reads_well(make, tmp_path):
    make(coco, LIKE['boxes'], peft='flora-r16')
    text = (tmp_path / 'my_config.py').read_text()
    assert text.count('\n') < 130
    assert all(len(line) < 80 for line in text.splitlines())
    assert f"_base_ = '{LIKE['boxes']}'" in text
    assert "type='mmflora.PEFTBackbone'" in text
    assert 'init_cfg=_base_.model.backbone.init_cfg' in text
    assert 'frozen_stages' not in text
    assert 'bbox_head=dict(num_classes=2)' in text
    assert "classes=('cat', 'dog')" in text


def test_a_whole_folder_of_coco_is_used_as_it_is(make, tmp_path):
    for split in ('train', 'val', 'test'):
        coco(tmp_path / 'data' / split)
        for number, name in enumerate(NAMES):
            file = tmp_path / 'data' / split / 'images' / f'{name}.png'
            picture(number + 10 * len(split)).save(file)
        (tmp_path / 'data' / split / 'annotations.json').rename(
            tmp_path / 'data' / f'{split}.json'
        )
    cfg, report = make(None, LIKE['boxes'])
    assert 'as they are: train.json, val.json' in report
    assert cfg.val_evaluator.ann_file == 'data/val.json'
    prefix = cfg.val_dataloader.dataset.data_prefix.img
    assert prefix == 'data/val/images'

    file = tmp_path / 'data' / 'val.json'
    content = json.loads(file.read_text())
    content['annotations'][0]['bbox'] = [1, 1, 0, 0]
    file.write_text(json.dumps(content))
    cfg, report = make(None, LIKE['boxes'], force=True)
    assert 'as they are: train.json, test.json; the others' in report
    assert cfg.val_evaluator.ann_file == 'my_config_data/val.json'


def test_rotated_boxes_around_polygons_and_quads_as_masks(make):
    cfg, _ = make(labelme_polygons, LIKE['rotated'])
    assert cfg.train_dataloader.dataset.type == 'DOTADataset'
    cfg, _ = make(labelme_polygons, LIKE['semantic'], force=True)
    assert cfg.metainfo.classes == ('background', 'cat', 'dog')


def test_images_in_two_folders_are_two_data_sets_for_mmrotate(make, tmp_path):
    for number, part in enumerate(('a', 'b')):
        dota(tmp_path / 'data' / part)
        for i, name in enumerate(NAMES):
            file = tmp_path / 'data' / part / 'images' / f'{name}.png'
            picture(i + 40 * number).save(file)
    cfg, _ = make(None, LIKE['rotated'])
    assert cfg.train_dataloader.dataset.type == 'ConcatDataset'
    assert len(cfg.train_dataloader.dataset.datasets) == 2


MISFITS = [
    (coco, 'masks', {}, 'has boxes .coco.*trains on objects with masks'),
    (dota, 'boxes', {}, '--task boxes'),
    (index_masks, 'boxes', {}, 'has label maps.*segformer'),
    (coco, 'rotated', {}, 'trains on rotated boxes.*faster-rcnn'),
    (coco, 'boxes', dict(task='masks'), '--task masks'),
    (coco, None, {}, '--like: say which.*faster-rcnn'),
    (coco, 'boxes', dict(classes=['cow']), '0 objects'),
]


@pytest.mark.parametrize(('write', 'task', 'options', 'match'), MISFITS)
def test_what_does_not_fit_is_an_error_with_a_way_out(
    write, task, options, match, make, tmp_path
):
    with pytest.raises(ValueError, match=f'(?s){match}'):
        make(write, LIKE.get(task), **options)
    # Nothing was written.
    assert [path.name for path in tmp_path.iterdir()] == ['data']


@pytest.mark.parametrize(
    ('like', 'match'),
    [
        ('mmdet::htc/htc_r50_fpn_1x_coco.py', 'panoptic'),
        (
            'mmdet::mm_grounding_dino/'
            'grounding_dino_swin-t_pretrain_obj365.py',
            'finetune',
        ),
        ('mmseg::vpd/vpd_sd_4xb8-25k_nyu-480x480.py', 'LoadDepth'),
        (
            'mmdet::bytetrack/bytetrack_yolox_x_8xb4-amp-80e_crowdhuman-'
            'mot17halftrain_test-mot17halfval.py',
            'trains on no boxes',
        ),
        ('mmdet::ld/ld_r18-gflv1-r101_fpn_1x_coco.py', 'teacher'),
        (
            'mmdet::soft_teacher/soft-teacher_faster-rcnn_r50-caffe_fpn_180k_'
            'semi-0.1-coco.py',
            'supervised',
        ),
    ],
)
def test_configs_for_other_tasks_are_refused(like, match, make):
    with pytest.raises(ValueError, match=match):
        make(coco, like)


def test_any_parts_over_the_checkpoint_of_a_detector(make, tmp_path):
    like = tmp_path / 'like.py'
    like.write_text(
        f"_base_ = '{LIKE['boxes']}'\n"
        'model = dict(\n'
        '    backbone=dict(depth=18, base_channels=8, init_cfg=None),\n'
        '    neck=dict(in_channels=[8, 16, 32, 64], out_channels=16),\n'
        '    rpn_head=dict(in_channels=16, feat_channels=16),\n'
        '    roi_head=dict(bbox_roi_extractor=dict(out_channels=16),\n'
        '        bbox_head=dict(in_channels=16, fc_out_channels=16)),\n'
        ')\n'
    )
    detector = build_model(read_config(str(like)), weights=False)
    torch.save(detector.state_dict(), tmp_path / 'detector.pth')
    cfg, report = make(
        coco,
        'like.py',
        peft='lora-r8',
        peft_parts=['backbone', 'neck=bitfit'],
        base='detector.pth',
    )
    assert cfg.model.type == 'mmflora.PEFTModel'
    text = (tmp_path / 'my_config.py').read_text()
    assert 'lora-r8, frozen: backbone, neck=bitfit.' in text
    assert 'fc_cls' in report  # it is for other classes, hence new
    model = build_model(cfg)
    assert model.roi_head.bbox_head.fc_cls.out_features == 3
    assert not model.neck.fpn_convs[0].conv.weight.requires_grad


def test_rotated_boxes_as_upright_ones_only_if_allowed(make):
    cfg, _ = make(yolo_obb, LIKE['boxes'], task='boxes')
    assert cfg.train_dataloader.dataset.type == 'CocoDataset'


def test_nothing_is_replaced_without_force(make, tmp_path):
    make(coco, LIKE['boxes'])
    with pytest.raises(ValueError, match='--force'):
        make(coco, LIKE['boxes'])
    with pytest.raises(ValueError, match='ends in .py'):
        make_config(Wishes('data', LIKE['boxes'], 'my.config'))
    with pytest.raises(ValueError, match='in the folder of the data'):
        make_config(Wishes('data', LIKE['boxes'], 'data/my_config.py'))
    with pytest.raises(ValueError, match='--epochs is 0'):
        make_config(Wishes('data', LIKE['boxes'], 'new.py', epochs=0))
    with pytest.raises(ValueError, match='--split is 1 0 0'):
        make_config(Wishes('data', LIKE['boxes'], 'new.py', split=(1, 0, 0)))
    assert not list(tmp_path.glob('.*partial*'))


def test_the_fitting_configs_exist():
    from mmflora.config.build import resolve_config

    for names in FITTING.values():
        for name in names:
            assert resolve_config(name)


def test_without_a_test_split_validation_serves(make, tmp_path):
    voc(tmp_path / 'data')
    voc_lists(tmp_path / 'data', train=[0, 1, 2], val=[4, 5])
    cfg, report = make(None, LIKE['boxes'])
    assert 'no test images: those of val serve' in report
    assert cfg.test_evaluator.ann_file == 'my_config_data/val.json'


def test_a_part_for_the_test_alone_is_cut_off_training(make, tmp_path):
    voc(tmp_path / 'data')
    voc_lists(tmp_path / 'data', train=[0, 1, 2, 3, 4, 5])
    cfg, report = make(None, LIKE['boxes'], split=(0.8, 0, 0.2))
    assert 'a test cut off training' in report
    assert 'no val images: those of test serve' in report
    assert cfg.val_evaluator.ann_file == 'my_config_data/test.json'


def test_the_command_prints_the_report_or_an_error(
    tmp_path, monkeypatch, capsys
):
    tool = Path(__file__).resolve().parents[2] / 'tools' / 'new_config.py'
    monkeypatch.chdir(tmp_path)
    voc(tmp_path / 'data')
    words = ['new_config.py', '--data', 'data', '--out', 'my_config.py']
    monkeypatch.setattr(sys, 'argv', words)
    with pytest.raises(SystemExit, match='error: --like: say which'):
        run_path(str(tool), run_name='__main__')
    monkeypatch.setattr(sys, 'argv', [*words, '--like', LIKE['boxes']])
    run_path(str(tool), run_name='__main__')
    printed = capsys.readouterr().out
    assert 'Pascal VOC XML, used as boxes' in printed
    assert 'python tools/train.py my_config.py' in printed
    report = Path('my_config_report.txt').read_text()
    assert printed.startswith(report[:200])


@pytest.mark.slow
def test_two_commands_train_and_test_a_model(tmp_path):
    """The small Mask R-CNN, on instances, over its own random base."""
    root = Path(__file__).resolve().parents[2]
    coco_masks(tmp_path / 'data')
    like = tmp_path / 'like.py'
    like.write_text(
        "_base_ = 'mmflora::frozen/mask-rcnn_convnextv2-atto_frozen_shapes.py'"
        '\nmodel = dict(backbone=dict(init_cfg=None, '
        'peft=dict(adapter=None, allow_random_base=True)))\n'
    )

    def run(*words):
        subprocess.run(
            [sys.executable, *map(str, words)], cwd=tmp_path, check=True
        )

    tools = root / 'tools'
    run(
        tools / 'new_config.py',
        *('--data', 'data', '--like', like, '--out', 'my_config.py'),
        *('--epochs', '1'),
    )
    run(tools / 'train.py', 'my_config.py')
    run(
        tools / 'test.py',
        *('my_config.py', 'work_dirs/my_config/epoch_1.pth'),
        *('--show-dir', 'pictures'),
    )
    assert list(tmp_path.rglob('pictures/*.png'))
