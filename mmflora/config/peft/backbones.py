"""Where a config's backbones stand, and how each becomes a frozen one."""

from collections.abc import Iterator, Mapping
from typing import Any

from mmengine.config import Config
from torch import nn

from mmflora.checkpoint.base_weights import pretrained_cfg
from mmflora.registry import MODELS

from ..walk import find_dicts
from .changes import Change, name_of
from .named_methods import Method

ENCODERS = ('image_encoder', 'img_backbone', 'encoder')
"""What the image's encoder is called in models without a ``backbone``."""

# Models within a model that have weights and a training of their own.
_OTHER_MODELS = ('reid', 'teacher')
# What a backbone calls the one that it is built around.
_INNER = 'backbone_cfg'


def find_backbones(cfg: Config) -> dict[str, Any]:
    """Return the backbones of a config's model, by place.

    In wrapped detectors (semi-supervised, tracking) they are those of the
    detector.  A teacher, and a tracker's ``reid``, are models of their own.
    A backbone around another one (BiSeNet, ICNet, STDC) that has no weights
    of its own gives way to the one inside.

    Raises:
        ValueError: If there is none; the parts of the model are named.
    """
    model = cfg.get('model')
    if not isinstance(model, Mapping):
        raise ValueError(
            f"The config '{cfg.filename}' has no `model`: give one that "
            'tools/train.py takes, not a file of configs/_base_.'
        )
    found = dict(_of_key(model, ('backbone',)))
    found = found or dict(_of_key(model, ENCODERS))
    if not found:
        parts = [k for k, v in model.items() if isinstance(v, Mapping)]
        raise ValueError(
            f'The model ({name_of(model.get("type"))}) has no part called '
            f'`backbone`. Its parts are {", ".join(parts) or "none"}; name '
            'those to freeze and adapt with --peft-parts, and the checkpoint '
            'of the whole model with --base.'
        )
    return found


def _of_key(model: Any, keys: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    done: list[str] = []
    for place, node in find_dicts(model, 'model'):
        path = place.split('.')
        inside = any(place.startswith(f'{other}.') for other in done)
        if path[-1] not in keys or 'type' not in node or inside:
            continue
        if set(path) & {*_OTHER_MODELS}:
            continue
        done.append(place)
        inner = node.get(_INNER)
        if isinstance(inner, Mapping) and not has_weights(node):
            place, node = f'{place}.{_INNER}', inner
        yield place, node


def module_of(place: str) -> tuple[str, str]:
    """Split a backbone's place: its model's, and its own path in there."""
    place = place.removesuffix(f'.{_INNER}')
    home, _, module = place.rpartition('.')
    return home, module


def others_left(cfg: Config) -> list[Change]:
    """Say which models within the model are left alone."""
    return [
        Change(place, name_of(node['type']), name_of(node['type']), 'as it is')
        for place, node in find_dicts(cfg.model, 'model')
        if place.rpartition('.')[2] in _OTHER_MODELS and 'type' in node
    ]


def move_pretrained(cfg: Config) -> list[Change]:
    """Turn ``pretrained=`` into the ``init_cfg`` of what it is meant for.

    Old segmentors name the backbone's weights beside it.  A multimodal one
    names a file with a part for each of its encoders and for its head.
    """
    changes = []
    nodes: list[tuple[str, Any]] = list(find_dicts(cfg.model, 'model'))
    for place, node in nodes:
        source = node.get('pretrained')
        if not isinstance(source, str):
            continue
        children = [k for k, v in node.items() if isinstance(v, dict)]
        init = dict(type='Pretrained', checkpoint=source)
        if 'backbone' in children:
            moved = {'backbone': init}
        elif 'image_encoder' in children:
            moved = {
                key: dict(type='Pretrained_Part', checkpoint=source)
                for key in ('text_encoder', 'decode_head')
                if key in children
            }
            moved['image_encoder'] = dict(init, prefix='image_encoder.')
        elif place.rpartition('.')[2] in ('backbone', _INNER):
            moved = {'': init}
        else:
            continue
        node['pretrained'] = None
        for key, value in moved.items():
            (node[key] if key else node)['init_cfg'] = value
        where = ', '.join(
            f'{place}.{key}.init_cfg'.replace('..', '.') for key in moved
        )
        why = f'it stands in {where} now'
        changes.append(Change(f'{place}.pretrained', source, None, why))
    return changes


def wrap_backbone(
    place: str, node: Any, method: Method, autocast: str | None
) -> list[Change]:
    """Turn a backbone's dict into that of a frozen one, in place.

    Args:
        place: Where it stands.
        node: Its dict; it is changed.
        method: How it is adapted.
        autocast: What it is to compute in, if not float32.
    """
    kind = name_of(node['type'])
    peft = dict(method.peft)
    changes = release_stages(place, node)
    if autocast is not None:
        peft.setdefault('autocast', autocast)
        why = 'with float32 features out'
        changes.append(Change(f'{place}.peft.autocast', None, autocast, why))
    frozen = kind.replace('mmflora.', 'mmflora.PEFT')
    if frozen != kind and frozen.partition('.')[2] in MODELS.module_dict:
        node.update(type=frozen, peft=peft)
    else:
        frozen = 'mmflora.PEFTBackbone'
        # Not `node.items()`, which imports what a config of classes names.
        inner = dict(dict.items(node))
        node.clear()
        node.update(type=frozen, backbone=inner, peft=peft)
    why = f'frozen, with {method}'
    return [Change(place, kind, f'{frozen} of it', why), *changes]


def check_weights(place: str, node: Any, method: Method) -> list[Change]:
    """Make sure that a backbone names its weights.

    Raises:
        ValueError: If it does not, and no random base was meant.
    """
    if has_weights(node):
        init = node.get('init_cfg')
        if isinstance(init, dict) and 'type' not in init:
            init['type'] = 'Pretrained'  # some classes ask for no type
            return [Change(f'{place}.init_cfg.type', None, 'Pretrained')]
        return []
    if method.peft.get('allow_random_base'):
        why = 'a random base, as the method allows; checkpoints hold it'
        return [Change(f'{place}.init_cfg', None, None, why)]
    option = f'{place}.init_cfg'
    raise ValueError(
        f"'{place}' ({name_of(node['type'])}) names no pretrained weights. "
        'Adapters over a random base learn nothing of use. Name weights: '
        '--base FILE (of this backbone, or of a whole model), or '
        f'--cfg-options {option}.type=Pretrained {option}.checkpoint=FILE. To '
        'train over a random base on purpose, give the method as a dict: '
        '"dict(adapter=dict(...), allow_random_base=True)".'
    )


def has_weights(node: Mapping[str, Any]) -> bool:
    """Return whether a backbone's dict names pretrained weights."""
    init = node.get('init_cfg')
    if isinstance(init, Mapping) and init.get('type') is None:
        return bool(init.get('checkpoint'))
    return pretrained_cfg(init) is not None or bool(node.get('pretrained'))


def release_stages(place: str, node: Any) -> list[Change]:
    """Take ``frozen_stages`` out: they would freeze adapters, too."""
    stages = node.get('frozen_stages', -1)
    if not isinstance(stages, int) or stages < 0:
        return []
    # By default no class freezes any; how it writes that differs (-1, 0).
    del node['frozen_stages']
    why = 'the base is frozen anyway; its stages get adapters, too'
    return [Change(f'{place}.frozen_stages', stages, None, why)]


def say_statistics(
    place: str, stock: nn.Module, method: Method
) -> list[Change]:
    """Say that batch norms keep the statistics that the config let move."""
    moving = [
        module
        for module in stock.modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm)
        and module.running_mean is not None
    ]
    kept = any(vars(m).get('norm_eval') is True for m in stock.modules())
    wish = method.peft.get('norm_eval')
    free = wish is False or (method.trains_base and wish is None)
    if kept or free or not moving:
        return []
    why = f'of {len(moving)} batch norms; peft.norm_eval=False lets them move'
    return [Change(f'{place}: statistics', 'moving', 'kept', why)]
