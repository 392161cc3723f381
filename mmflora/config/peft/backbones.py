"""Where a config's backbones stand, and how each becomes a frozen one."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from mmengine.config import Config

from mmflora.checkpoint.base_weights import pretrained_cfg
from mmflora.models.peft_options import peft_settings, set_peft
from mmflora.registry import MODELS

from ..build import build_model
from ..walk import find_dicts
from .changes import Change
from .named_methods import Method

ENCODERS = ('image_encoder', 'img_backbone', 'encoder')
"""What the image's encoder is called in models without a ``backbone``."""

# Models within a model that are not trained with it.
_OTHER_MODELS = ('reid', 'teacher')


def find_backbones(cfg: Config) -> dict[str, Any]:
    """Return the backbones of a config's model, by place.

    In wrapped detectors (semi-supervised, tracking) they are those of the
    detector.  A teacher and a tracker's ``reid`` are models of their own,
    with weights and training of their own.  A backbone around another one
    (BiSeNet, ICNet, STDC: ``backbone_cfg``) that has no weights of its own
    gives way to the one inside.

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
    if not found:
        found = dict(_of_key(model, ENCODERS))
    if not found:
        parts = [k for k, v in model.items() if isinstance(v, Mapping)]
        raise ValueError(
            f'The model ({_name(model.get("type"))}) has no part called '
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
        if any(part in _OTHER_MODELS for part in path):
            continue
        done.append(place)
        inner = node.get('backbone_cfg')
        if isinstance(inner, Mapping) and not _weights(node):
            place, node = f'{place}.backbone_cfg', inner
        yield place, node


def move_pretrained(cfg: Config) -> list[Change]:
    """Turn ``pretrained=`` into the ``init_cfg`` of what it is meant for.

    Old segmentors name the backbone's weights beside it.
    """
    changes = []
    nodes: list[tuple[str, Any]] = list(find_dicts(cfg.model, 'model'))
    for place, node in nodes:
        source = node.get('pretrained')
        if source is None:
            continue
        inner = node.get('backbone')
        if isinstance(inner, dict) and 'type' in inner:
            node['pretrained'] = None
            target, where = inner, f'{place}.backbone'
        elif place.rpartition('.')[2] in ('backbone', 'backbone_cfg'):
            del node['pretrained']
            target, where = node, place
        else:
            continue
        target['init_cfg'] = dict(type='Pretrained', checkpoint=source)
        changes.append(
            Change(
                f'{place}.pretrained',
                source,
                None,
                f'it stands in {where}.init_cfg now',
            )
        )
    return changes


def wrap_backbone(
    place: str, node: Any, method: Method, autocast: str | None = None
) -> list[Change]:
    """Turn a backbone's dict into that of a frozen one, in place.

    Args:
        place: Where it stands.
        node: Its dict; it is changed.
        method: How it is adapted.
        autocast: What it is to compute in, if not float32.

    Raises:
        ValueError: If it has no pretrained weights, and no random base was
            meant.
    """
    changes = _settle_weights(place, node, method)
    changes += _release_stages(place, node)
    peft = dict(method.peft)
    if autocast is not None:
        peft.setdefault('autocast', autocast)
        why = 'with float32 features out, in place of AmpOptimWrapper'
        changes.append(Change(f'{place}.peft.autocast', None, autocast, why))
    kind = _name(node['type'])
    own = kind.startswith('mmflora.') and kind.replace('.', '.PEFT')
    if own and own.partition('.')[2] in MODELS.module_dict:
        after = own
        node.update(type=own, peft=peft)
    else:
        after = 'mmflora.PEFTBackbone'
        inner = dict(node)
        node.clear()
        node.update(type=after, backbone=inner, peft=peft)
    why = f'frozen; {_adapter(method)}'
    return [Change(place, kind, f'{after} of {kind}', why), *changes]


def fit_patterns(
    cfg: Config, place: str, method: Method
) -> tuple[Method, list[Change]]:
    """Leave out patterns of layers that a backbone does not have.

    A named method's ``targets`` and ``exclude`` were written for the layers
    of one family of backbones.
    """
    patterns = {k: method.peft.get(k) for k in ('targets', 'exclude')}
    if not method.written_for or not any(patterns.values()):
        return method, []
    backbone = build_model(cfg, place, weights=False, device='meta')
    names = [name for name, _ in backbone.named_modules()]
    peft, changes = dict(method.peft), []
    for setting, given in patterns.items():
        texts = [given] if isinstance(given, str) else list(given or ())
        idle = [
            text
            for text in texts
            if not any(re.fullmatch(text, name) for name in names)
        ]
        if not idle:
            continue
        kept: Any = [text for text in texts if text not in idle]
        if isinstance(given, Mapping):
            kept = {text: given[text] for text in kept}
        peft[setting] = kept
        if not kept:
            del peft[setting]
        why = f"the method's pattern for layers that {place} does not have"
        where = f'{place}.peft.{setting}'
        changes += [Change(where, text, None, why) for text in idle]
    return replace(method, peft=peft), changes


def exchange_method(place: str, node: Any, method: Method) -> list[Change]:
    """Give a frozen backbone another method; the rest of ``peft`` stays."""
    before = peft_settings(node)
    settings = {'targets': None, 'exclude': (), **method.peft}
    if all(settings[k] == before.get(k, v) for k, v in settings.items()):
        return [Change(place, node['type'], node['type'], 'has this method')]
    kind = _name(node['type'])
    plain = kind.replace('mmflora.FLoRA', 'mmflora.PEFT')
    set_peft(node, **method.peft)
    for name, default in (('targets', None), ('exclude', ())):
        if name not in method.peft and node['peft'].get(name, default):
            del node['peft'][name]
    changes = [
        Change(
            f'{place}.peft.adapter',
            before.get('adapter'),
            method.peft['adapter'],
            'the config is one of mmflora; its method alone is exchanged',
        )
    ]
    if plain != kind:
        node['type'] = plain
        changes.append(Change(f'{place}.type', kind, plain))
    return changes


def _settle_weights(place: str, node: Any, method: Method) -> list[Change]:
    """Make sure that a backbone names its weights."""
    if _weights(node):
        init = node.get('init_cfg')
        if isinstance(init, dict) and 'type' not in init:
            init['type'] = 'Pretrained'  # some classes ask for no type
            return [Change(f'{place}.init_cfg.type', None, 'Pretrained')]
        return []
    if method.peft.get('allow_random_base'):
        return []
    option = f'{place}.init_cfg'
    raise ValueError(
        f"'{place}' ({_name(node['type'])}) names no pretrained weights, and "
        'adapters over a random base learn nothing of use. Name weights: '
        '--base FILE (of this backbone, or of a whole model), or '
        f'--cfg-options {option}.type=Pretrained {option}.checkpoint=FILE. To '
        'train over a random base on purpose, give the method as a dict: '
        '"dict(adapter=dict(...), allow_random_base=True)".'
    )


def _weights(node: Mapping[str, Any]) -> bool:
    """Return whether a backbone's dict names pretrained weights."""
    init = node.get('init_cfg')
    if isinstance(init, Mapping) and init.get('type') is None:
        return bool(init.get('checkpoint'))
    return pretrained_cfg(init) is not None or bool(node.get('pretrained'))


def _release_stages(place: str, node: Any) -> list[Change]:
    stages = node.get('frozen_stages', -1)
    if not isinstance(stages, int) or stages < 0:
        return []
    # By default no class freezes any; how it writes that differs (-1, 0).
    del node['frozen_stages']
    why = 'the base is frozen anyway; its stages get adapters, too'
    return [Change(f'{place}.frozen_stages', stages, None, why)]


def _adapter(method: Method) -> str:
    adapter = method.peft['adapter']
    if adapter is None:
        return 'no adapters'
    inner = ', '.join(f'{k}={v!r}' for k, v in adapter.items() if k != 'type')
    return f'{_name(adapter["type"])}({inner})'


def _name(kind: Any) -> str:
    return kind if isinstance(kind, str) else getattr(kind, '__name__', '?')
