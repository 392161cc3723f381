"""The number of classes, everywhere in a model."""

import inspect
from collections.abc import Iterator, Sequence
from typing import Any

from mmengine.config import Config
from mmengine.registry import MODELS

from mmflora.config.build import register_toolkit
from mmflora.config.walk import find_dicts

_HEADS = (
    *('bbox_head', 'mask_head', 'decode_head', 'auxiliary_head'),
    *('panoptic_head', 'panoptic_fusion_head', 'segm_head', 'mask_iou_head'),
    'point_head',
)
# Parts whose classes are not those of the data.
# Boundaries, not classes.
_OTHER_HEADS = ('STDCHead',)
_OTHER_PARTS = ('backbone', 'neck', 'rpn_head', 'language_model', 'reid')


def set_classes(cfg: Config, names: Sequence[str]) -> None:
    """Give every head of a model the classes of the data.

    These are ``num_classes`` wherever it stands outside the backbone, neck and
    region proposals (losses have it, too), heads that leave it to their
    default, things and stuff of panoptic heads, ``out_channels`` of
    segmentation heads, the weights of classes in losses, and the words of
    text encoders.

    Args:
        cfg: It is changed.
        names: The classes.
    """
    register_toolkit(cfg)
    count = len(names)
    for place, node in list(find_dicts(cfg.model, 'model')):
        path = place.split('.')
        if set(path) & {*_OTHER_PARTS} or _is_other_head(cfg, path):
            continue
        if node.get('dataset_name') and path[-1] == 'text_encoder':
            node.update(dataset_name=None, vocabulary=list(names))
        before = node.get('num_classes')
        if before is None and 'num_things_classes' in node:
            before = node['num_things_classes'] + node['num_stuff_classes']
        if 'num_classes' in node or _has_default(node, path, cfg):
            node['num_classes'] = count
        if 'num_things_classes' in node:
            node['num_things_classes'] = count
            node['num_stuff_classes'] = 0
        if before is None:
            continue
        if node.get('out_channels') in (1, before) and 'channels' in node:
            node['out_channels'] = count
        for loss in _losses(node):
            weights = loss['class_weight']
            if len(weights) in (before, before + 1):
                # All classes alike; what stands behind is no class.
                same = weights[0] if len({*weights[:before]}) == 1 else 1.0
                loss['class_weight'] = [same] * count + weights[before:]


def _losses(head: Any) -> Iterator[Any]:
    for key, value in head.items():
        if key.startswith('loss'):
            for _, loss in find_dicts(value, ''):
                if isinstance(loss.get('class_weight'), (list, tuple)):
                    loss['class_weight'] = list(loss['class_weight'])
                    yield loss


def _is_other_head(cfg: Config, path: list[str]) -> bool:
    """Return whether a place is in a head for boundaries or the like."""
    node: Any = cfg
    for key in path:
        node = node[int(key)] if isinstance(node, (list, tuple)) else node[key]
        if isinstance(node, dict) and str(node.get('type')).endswith(
            _OTHER_HEADS
        ):
            return True
    return False


def _has_default(node: Any, path: list[str], cfg: Config) -> bool:
    """Return whether a head's class has a number of classes by default."""
    name = [key for key in path if not key.isdigit()][-1]
    if name not in _HEADS or not isinstance(node.get('type'), str):
        return False
    kind = node['type']
    if '.' not in kind:
        kind = f'{node.get("_scope_", cfg.default_scope)}.{kind}'
    found = MODELS.get(kind)
    return (
        inspect.isclass(found)
        and 'num_classes' in inspect.signature(found).parameters
    )
