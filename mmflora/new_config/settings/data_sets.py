"""The data sets and evaluators of a config, exchanged for others."""

import copy
from collections.abc import Mapping
from typing import Any

from mmengine.config import Config

from mmflora.config.walk import find_dicts

# What every data set of a toolkit takes, and says nothing of the old data.
_KEPT = ('pipeline', 'filter_cfg', 'test_mode', 'backend_args')
# What says where the old data is, or is about its classes.
_PLACES = (
    *('data_root', 'ann_file', 'data_prefix', 'metainfo', 'indices'),
    *('img_suffix', 'seg_map_suffix', 'ann_subdir', 'img_subdir'),
    *('label_map_file', 'diff_thr', 'ignore_index', 'sub_data_root'),
)


def kind_of_data(cfg: Config) -> str:
    """Return how annotations are written: ``coco``, ``dota`` or ``maps``."""
    scope = cfg.default_scope
    if scope == 'mmseg':
        return 'maps'
    if scope == 'mmdet':
        return 'coco'
    node = _inner(cfg.train_dataloader.dataset)
    return 'coco' if str(node['type']).endswith('CocoDataset') else 'dota'


def set_data(cfg: Config, places: Mapping[str, list[dict[str, Any]]]) -> None:
    """Exchange the data sets of training, validation and test.

    Wrappers stay, except those that concatenate several data sets or repeat
    one. Tests use the transforms of validation.

    Args:
        cfg: It is changed.
        places: For each split the settings of its data sets; several are
            concatenated.
    """
    train, val = cfg.train_dataloader, cfg.val_dataloader
    train['dataset'] = _exchanged(train['dataset'], places['train'])
    sampler = train.get('sampler') or {}
    if str(sampler.get('type')).endswith('MultiSourceSampler'):
        raise ValueError(
            f"'{cfg.filename}' mixes several data sets in a batch "
            f'({sampler["type"]}). Use a supervised config of the same model.'
        )
    before = val['dataset']
    val['dataset'] = _exchanged(before, places['val'])
    cfg['test_dataloader'] = copy.deepcopy(val)
    cfg['test_dataloader']['dataset'] = _exchanged(before, places['test'])
    for _, node in find_dicts(cfg.get('test_dataloader'), ''):
        node.pop('lazy_init', None)
    for loader in (train, val, cfg.test_dataloader):
        for _, node in find_dicts(loader.get('dataset'), ''):
            if 'reduce_zero_label' in node:
                node['reduce_zero_label'] = False


def set_evaluators(
    cfg: Config, task: str, kind: str, files: Mapping[str, str]
) -> None:
    """Exchange the annotation files of the evaluators, or the evaluators.

    Args:
        cfg: It is changed.
        task: A key of ``TASKS``.
        kind: What :func:`kind_of_data` returned.
        files: For each split its annotation file, of COCO.
    """
    before: Any = cfg.get('val_evaluator') or {}
    if isinstance(before, (list, tuple)):
        before = before[0] if before else {}
    name = str(before.get('type')).rpartition('.')[2]
    choices: dict[str, tuple[str, dict[str, Any]]] = {
        'maps': ('IoUMetric', dict(iou_metrics=['mIoU'])),
        'dota': ('DOTAMetric', dict(metric='mAP')),
        'coco': ('CocoMetric', dict(metric='bbox')),
    }
    wanted, settings = choices[kind]
    if kind == 'coco' and task == 'rotated':
        wanted = 'RotatedCocoMetric'
    if kind == 'coco' and task == 'masks':
        settings = dict(metric=['bbox', 'segm'])
    if name.endswith(wanted):
        after = copy.deepcopy(before)
        for key in ('format_only', 'outfile_prefix', 'merge_patches'):
            if after.get(key):
                del after[key]
    else:
        after = dict(type=wanted, **settings)
    for split in ('val', 'test'):
        evaluator = copy.deepcopy(after)
        if kind == 'coco':
            evaluator['ann_file'] = files[split]
        cfg[f'{split}_evaluator'] = evaluator
    cfg['val_cfg'] = cfg.get('val_cfg') or dict(type='ValLoop')
    cfg['test_cfg'] = cfg.get('test_cfg') or dict(type='TestLoop')


def name_pipelines(cfg: Config, base: Config) -> None:
    """Give transforms that differ from the base's a name in the config.

    Training and tests are named as the toolkits' configs name them.
    """
    for name, loader in (('train', 'train'), ('test', 'val')):
        new = _inner(cfg[f'{loader}_dataloader'].dataset).get('pipeline')
        old = _inner(base[f'{loader}_dataloader'].dataset).get('pipeline')
        if new and new != old:
            cfg[f'{name}_pipeline'] = new


def _inner(node: Any) -> Any:
    """Return the first data set within its wrappers."""
    while True:
        if 'datasets' in node:
            node = node['datasets'][0]
        elif isinstance(node.get('dataset'), Mapping):
            node = node['dataset']
        else:
            return node


def _exchanged(node: Any, places: list[dict[str, Any]]) -> Any:
    if 'datasets' in node:
        return _exchanged(node['datasets'][0], places)
    if isinstance(node.get('dataset'), Mapping):
        if str(node['type']).endswith('RepeatDataset'):
            return _exchanged(node['dataset'], places)
        outer = dict(node)
        outer['dataset'] = _exchanged(node['dataset'], places)
        return outer
    new = [_one(node, place) for place in places]
    if len(new) == 1:
        return new[0]
    return dict(type='ConcatDataset', datasets=new)


def _one(node: Any, place: dict[str, Any]) -> dict[str, Any]:
    kept = {k: v for k, v in node.items() if k in _KEPT}
    same = str(node['type']).rpartition('.')[2]
    if same == place['type']:
        kept = {k: v for k, v in node.items() if k not in _PLACES}
        place = {**place, 'type': node['type']}
    elif node.get('return_classes'):
        kept['return_classes'] = True
    kept.pop('type', None)
    return {**place, **copy.deepcopy(kept)}
