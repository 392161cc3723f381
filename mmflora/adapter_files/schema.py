"""The description that goes with an adapter's tensors, and its versions.

Version 1 is a JSON object of these members:

============== ============================================================
format         ``'mmflora_adapter'``
schema_version ``1``
tensors        ``file`` (in a folder), ``count``, ``bytes``, ``sha256``
toolkit        ``'mmdet'``, ``'mmseg'``, ``'mmrotate'`` or ``null``
model          the type of the whole model, or ``null``
backbones      by name: ``method`` (``adapter`` and its arguments,
               ``targets``, ``exclude``, ``signature``), ``base`` (``source``,
               ``layout``, ``sha256``, ``origin``, ``saved_along``),
               ``config`` (the backbone's own, without ``init_cfg``),
               ``layers`` (those with an adapter), ``tuned`` (the base's
               parameters that were trained)
dataset_meta   ``classes`` and ``palette`` of the training data
versions       of the packages that wrote it
metrics        what the adapter reached, by name
training       ``epoch`` and ``iter``
============== ============================================================

Version 0 knew one backbone: ``method``, ``base``, ``base_sha256`` and
``classes`` stood at the top, and no hash of the tensors.
"""

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

SCHEMA_VERSION = 1
FORMAT = 'mmflora_adapter'
CONFIG_NAME = 'adapter_config.json'
TENSORS_NAME = 'adapter_model.safetensors'

_TEXT = (str, type(None))
_LIST = (list, type(None))
_DICT = (dict, type(None))
# Of what type each member is; `None` stands for one that is missing, too.
_MEMBERS: dict[str, type | tuple[type, ...]] = {
    'tensors': dict,
    'tensors.sha256': _TEXT,
    'toolkit': _TEXT,
    'model': _TEXT,
    'backbones': dict,
    'dataset_meta': dict,
    'dataset_meta.classes': _LIST,
    'dataset_meta.palette': (list, str, type(None)),
    'versions': dict,
    'metrics': dict,
    'training': dict,
    'training.epoch': (int, type(None)),
    'training.iter': (int, type(None)),
}
_BACKBONE: dict[str, type | tuple[type, ...]] = {
    'method': dict,
    'method.adapter': _DICT,
    'method.adapter.type': _TEXT,
    'method.targets': (str, list, dict, type(None)),
    'method.exclude': (str, list, type(None)),
    'method.signature': _TEXT,
    'method.quantize': _DICT,
    'base': dict,
    'base.source': _DICT,
    'base.source.checkpoint': _TEXT,
    'base.source.prefix': _TEXT,
    'base.layout': _TEXT,
    'base.sha256': _TEXT,
    'base.origin': _TEXT,
    'config': _DICT,
    'layers': _LIST,
    'tuned': _LIST,
}


def check_config(config: Any, path: str) -> dict[str, Any]:
    """Return a description in the newest schema, or refuse it.

    Args:
        config: What the file's JSON says.
        path: The file, for the error.

    Raises:
        ValueError: If it describes no adapter of mmflora, was written by a
            newer mmflora, or is incomplete.
    """
    if not isinstance(config, dict) or config.get('format') != FORMAT:
        hint = 'Give a file that `tools/adapters.py export` wrote.'
        if isinstance(config, dict) and 'peft_type' in config:
            hint = (
                "It is huggingface/peft's; read it with "
                '`tools/adapters.py import --from peft`.'
            )
        raise ValueError(
            f"'{path}' describes no adapter of mmflora (its `format` is not "
            f"'{FORMAT}'). {hint}"
        )
    version = config.get('schema_version')
    if isinstance(version, bool) or not isinstance(version, int):
        raise ValueError(
            f"'{path}': schema_version is {version!r}; allowed are integers "
            f'from 0 to {SCHEMA_VERSION}. Take another copy of the file.'
        )
    if version > SCHEMA_VERSION or version < 0:
        raise ValueError(
            f"'{path}' has schema version {version}, but this mmflora reads "
            f'0 to {SCHEMA_VERSION}. Update mmflora, or export the adapter '
            'again with this version.'
        )
    while version < SCHEMA_VERSION:
        config = _MIGRATIONS[version](config, path)
        version += 1
    return _check_members(config, path)


def _check_members(config: dict[str, Any], path: str) -> dict[str, Any]:
    config = {'toolkit': None, 'model': None} | config
    _check_types(config, _MEMBERS, path)
    for name, backbone in config['backbones'].items():
        where = f"backbone '{name}': "
        if not isinstance(backbone, dict):
            raise ValueError(_damaged(path, where, backbone))
        for part in ('method', 'base'):
            if backbone.get(part) is None:
                raise ValueError(
                    f"'{path}': {where}it is described without its "
                    f'`{part}`. Take another copy of the file.'
                )
        _check_types(backbone, _BACKBONE, path, where)
        _check_names(backbone, path, where)
        absent = dict.fromkeys(('source', 'layout', 'sha256', 'origin'))
        backbone['base'] = absent | backbone['base']
        source = backbone['base']['source']
        if source is not None and not source.get('checkpoint'):
            raise ValueError(_damaged(path, f'{where}`base.source`', source))
    check_file_name(config['tensors'].get('file', TENSORS_NAME), path)
    return config


def _check_types(
    node: dict[str, Any],
    kinds: Mapping[str, type | tuple[type, ...]],
    path: str,
    where: str = '',
) -> None:
    for name, kind in kinds.items():
        value: Any = node
        for part in name.split('.'):
            value = (value or {}).get(part)
        if not isinstance(value, kind):
            raise ValueError(_damaged(path, f'{where}`{name}`', value))


def _check_names(backbone: dict[str, Any], path: str, where: str) -> None:
    """Check lists of names, and the patterns of layers."""
    method = backbone['method']
    patterns: list[Any] = []
    for part in ('targets', 'exclude'):
        value = method.get(part) or ()
        patterns += [value] if isinstance(value, str) else list(value)
        if isinstance(value, dict):
            for options in value.values():
                if not isinstance(options, dict) or not isinstance(
                    options.get('type'), _TEXT
                ):
                    raise ValueError(_damaged(path, f'{where}{part}', options))
    names = [*(backbone.get('layers') or ()), *(backbone.get('tuned') or ())]
    for name in (*patterns, *names):
        if not isinstance(name, str):
            raise ValueError(_damaged(path, f'{where}a name', name))
    for pattern in patterns:
        try:
            re.compile(pattern)
        except re.error:
            what = f'{where}a pattern of layers'
            raise ValueError(_damaged(path, what, pattern)) from None


def _damaged(path: str, what: str, value: Any) -> str:
    return (
        f"'{path}': {what} is missing or of another type (got "
        f'{value!r:.60}). The description is damaged; take another copy of '
        'the file.'
    )


def check_file_name(name: Any, path: str) -> str:
    """Return the name of a file beside the description, or refuse it.

    Raises:
        ValueError: If it would lead out of the folder.
    """
    if not isinstance(name, str) or not re.fullmatch(
        r'(?!\.)[\w.-]+\.safetensors', name
    ):
        raise ValueError(
            f"'{path}' names the tensors' file {name!r}. Allowed is the bare "
            'name of a .safetensors file in the same folder: a path could '
            'lead anywhere. The file is not to be trusted.'
        )
    return name


def check_tensor_name(name: str, path: str) -> None:
    """Refuse a tensor whose name is no key of a model.

    Raises:
        ValueError: If it holds parts of a path or unprintable characters.
    """
    parts = name.split('.')
    if not all(parts) or not name.isprintable() or re.search(r'[/\\:]', name):
        raise ValueError(
            f"'{path}' holds a tensor named {name!r}. Allowed are keys of a "
            'model: names joined by single dots, without slashes. The file '
            'is not to be trusted.'
        )


def plain_json(value: Any) -> Any:
    """Return a value in JSON's types; what has none becomes its text."""
    if isinstance(value, Mapping):
        return {str(key): plain_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set)):
        return [plain_json(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return str(value)


def description(backbones: Mapping[str, Any], **known: Any) -> dict[str, Any]:
    """Return a description, of which all that is not given is empty."""
    empty: dict[str, Any] = dict(
        format=FORMAT,
        schema_version=SCHEMA_VERSION,
        tensors={},
        toolkit=None,
        model=None,
        backbones=backbones,
        dataset_meta={},
        versions={},
        metrics={},
        training={},
    )
    return empty | known


def described_base(source: Any, sha256: Any, origin: Any) -> dict[str, Any]:
    """Return what a description says of a base, of whatever layout."""
    return dict(
        source=source,
        layout=None,
        sha256=sha256,
        origin=origin,
        saved_along=source is None,
    )


def _from_0(config: dict[str, Any], path: str) -> dict[str, Any]:
    source = config.get('base')
    origin = 'init_cfg' if source else None
    base = described_base(source, config.get('base_sha256'), origin)
    backbone = dict(method=config.get('method'), base=base, config=None)
    return description(
        dict(backbone=backbone),
        tensors={'file': config.get('file', TENSORS_NAME)},
        toolkit=config.get('toolkit'),
        dataset_meta={'classes': config.get('classes')},
        versions=config.get('versions', {}),
        metrics=config.get('metrics', {}),
    )


_MIGRATIONS: dict[int, Callable[[dict[str, Any], str], dict[str, Any]]] = {
    0: _from_0
}
