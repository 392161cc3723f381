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

_MEMBERS: dict[str, type | tuple[type, ...]] = {
    'tensors': dict,
    'toolkit': (str, type(None)),
    'model': (str, type(None)),
    'backbones': dict,
    'dataset_meta': dict,
    'versions': dict,
    'metrics': dict,
    'training': dict,
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
    for name, kind in _MEMBERS.items():
        if name not in config or not isinstance(config[name], kind):
            raise ValueError(
                f"'{path}': `{name}` is missing or of another type (got "
                f'{config.get(name)!r:.60}). The description is damaged; '
                'take another copy of the file.'
            )
    for name, backbone in config['backbones'].items():
        parts = backbone if isinstance(backbone, dict) else {}
        if not isinstance(parts.get('method'), dict) or not isinstance(
            parts.get('base'), dict
        ):
            raise ValueError(
                f"'{path}': backbone '{name}' is described without its "
                '`method` or its `base`. Take another copy of the file.'
            )
    check_file_name(config['tensors'].get('file', TENSORS_NAME), path)
    return config


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


def _from_0(config: dict[str, Any], path: str) -> dict[str, Any]:
    source = config.get('base')
    return dict(
        format=FORMAT,
        schema_version=1,
        tensors={'file': config.get('file', TENSORS_NAME)},
        toolkit=config.get('toolkit'),
        model=None,
        backbones=dict(
            backbone=dict(
                method=config.get('method'),
                base=dict(
                    source=source,
                    layout=None,
                    sha256=config.get('base_sha256'),
                    origin='init_cfg' if source else None,
                    saved_along=source is None,
                ),
                config=None,
            )
        ),
        dataset_meta={'classes': config.get('classes')},
        versions=config.get('versions', {}),
        metrics=config.get('metrics', {}),
        training={},
    )


_MIGRATIONS: dict[int, Callable[[dict[str, Any], str], dict[str, Any]]] = {
    0: _from_0
}
