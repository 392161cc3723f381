"""Whether a config is for the kind of annotations that a folder has."""

from collections.abc import Iterator
from typing import Any

from mmengine.config import Config

from mmflora.config.walk import find_dicts

from .annotated_images import TASKS, ImageSet

FITTING = {
    'boxes': (
        'mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py',
        'mmdet::rtmdet/rtmdet_s_8xb32-300e_coco.py',
        'mmdet::dino/dino-4scale_r50_8xb2-12e_coco.py',
        'mmdet::mm_grounding_dino/coco/'
        'grounding_dino_swin-t_finetune_16xb4_1x_coco.py',
    ),
    'masks': (
        'mmflora::flora/mask-rcnn_convnextv2-l_flora-r16_coco.py',
        'mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py',
        'mmdet::mask2former/mask2former_r50_8xb2-lsj-50e_coco.py',
        'mmdet::rtmdet/rtmdet-ins_s_8xb32-300e_coco.py',
    ),
    'rotated': (
        'mmflora::flora/oriented-rcnn-le90_convnextv2-l_flora-r16_dota.py',
        'mmrotate::oriented_rcnn/oriented-rcnn-le90_r50_fpn_1x_dota.py',
        'mmrotate::rotated_rtmdet/rotated_rtmdet_s-3x-dota.py',
    ),
    'semantic': (
        'mmflora::flora/upernet_convnextv2-l_flora-r16_ade20k-512x512.py',
        'mmseg::segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512.py',
        'mmseg::mask2former/mask2former_r50_8xb2-160k_ade20k-512x512.py',
    ),
}
"""Configs to start from, for each kind of annotations."""

# What can be made of what without the user's word.
_MADE_FROM = {
    'boxes': ('boxes', 'masks'),
    'masks': ('masks',),
    'rotated': ('rotated', 'masks'),
    'semantic': ('semantic', 'masks'),
}
# What only `--task` allows, since it loses what somebody annotated.
_LOSING = {'boxes': ('rotated',)}


def wanted_task(cfg: Config) -> str:
    """Return the kind of annotations that a config trains on.

    Raises:
        ValueError: If it is none of those that a folder can have.
    """
    scope = cfg.get('default_scope')
    loader = cfg.get('train_dataloader') or {}
    transforms = list(transforms_of(loader.get('dataset')))
    val = (cfg.get('val_dataloader') or {}).get('dataset')
    tested = {str(t.get('type')) for t in transforms_of(val)}
    types = {str(t.get('type')).rpartition('.')[2] for t in transforms}
    loads = [
        t for t in transforms if str(t.get('type')).endswith('LoadAnnotations')
    ]
    where = f"--like '{cfg.filename}'"
    if 'LoadPanopticAnnotations' in types or any(
        t.get('with_seg') for t in loads if scope == 'mmdet'
    ):
        raise ValueError(
            f'{where} needs maps of the background beside the objects '
            '(panoptic). No format that is read here has both. Use a config '
            'for instances, such as ' + ' or '.join(FITTING['masks'][1:3])
        )
    if 'RandomSamplingNegPos' in types:
        raise ValueError(
            f'{where} pretrains on phrases of many data sets '
            '(RandomSamplingNegPos). Use a config that fine-tunes the same '
            f'model, such as {FITTING["boxes"][-1]}'
        )
    if 'teacher_config' in cfg.model:
        raise ValueError(
            f'{where} learns from a teacher of other classes '
            f'({cfg.model.teacher_config}). Use a config of the student alone.'
        )
    if (
        scope not in ('mmdet', 'mmrotate', 'mmseg')
        or not loads
        or not any('PackDet' in t or 'PackSeg' in t for t in tested)
    ):
        raise ValueError(
            f'{where} trains on no boxes, masks or label maps '
            f'(default_scope={scope!r}, transforms '
            f'{", ".join(sorted(types)) or "none"}). Use a config of '
            'detection or segmentation.'
        )
    if scope == 'mmseg':
        return 'semantic'
    if scope == 'mmrotate':
        return 'rotated'
    return 'masks' if any(t.get('with_mask') for t in loads) else 'boxes'


def transforms_of(dataset: Any) -> Iterator[Any]:
    """Yield the transforms of a data set, the wrapped ones included."""
    for _, node in find_dicts(dataset, ''):
        for key in ('pipeline', 'transforms'):
            for _, transform in find_dicts(node.get(key), ''):
                if 'type' in transform:
                    yield transform


def check_fit(
    data: ImageSet, wanted: str, like: str, allowed: str | None = None
) -> None:
    """Make the folder's kind of annotations the one that the config needs.

    Args:
        data: Its ``task`` is changed where that loses nothing, or where the
            user allows it.
        wanted: A key of ``TASKS``.
        like: The config, for messages.
        allowed: What the user says the annotations are to be used as.

    Raises:
        ValueError: If they do not fit; names configs that do.
    """
    if allowed and allowed != wanted:
        raise ValueError(
            f"--task {allowed}: '{like}' trains on {TASKS[wanted]}. Configs "
            f'for {TASKS[allowed]}:{_listed(allowed)}'
        )
    have = {data.task} | ({'masks', 'rotated'} if data.either else set())
    usable = set(_MADE_FROM[wanted])
    if allowed:
        usable |= set(_LOSING.get(wanted, ()))
    if wanted in have or have & usable:
        return
    text = (
        f"The folder '{data.root}' has {TASKS[data.task]} ({data.format}), "
        f"and '{like}' trains on {TASKS[wanted]}. Configs for "
        f'{TASKS[data.task]}:{_listed(data.task)}'
    )
    if have & set(_LOSING.get(wanted, ())):
        text += (
            f'\nOr use the upright {wanted} around them, without their '
            f'angles: --task {wanted}'
        )
    raise ValueError(text)


def ask_for_config(data: ImageSet) -> ValueError:
    """Return the error of a call without ``--like``."""
    return ValueError(
        f"--like: say which config to start from. '{data.root}' has "
        f'{len(data.images)} images with {TASKS[data.task]} ({data.format}). '
        f'Fitting are any config for them, such as{_listed(data.task)}'
    )


def _listed(task: str) -> str:
    return ''.join(f'\n  {name}' for name in FITTING[task])
