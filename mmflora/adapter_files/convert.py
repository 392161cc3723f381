"""From training checkpoints to adapters, and back."""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from mmflora.checkpoint.record import RECORD_NAME
from mmflora.files.checksums import check_finite
from mmflora.files.config_text import read_settings
from mmflora.files.training_checkpoints import (
    load_checkpoint,
    save_checkpoint,
)
from mmflora.version import __version__

from .adapter import ADAPTER_PART, AdapterFile, contiguous, decode_record
from .base_layout import layout_of_source
from .provenance import logged_metrics, versions
from .schema import check_config, description, plain_json
from .write import write_adapter

_INFO = f'{RECORD_NAME}.info'


def from_checkpoint(
    path: str | os.PathLike[str], metrics: Mapping[str, Any] | None = None
) -> AdapterFile:
    """Make an adapter of a training checkpoint.

    Optimizer, schedulers and logs stay behind.

    Args:
        path: A file of :class:`mmflora.engine.AdapterCheckpointHook`.
        metrics: What the adapter reached; by default what validation logged
            beside the file for its epoch or iteration.

    Raises:
        FileNotFoundError: If it is missing.
        ValueError: If it is damaged, could run code, or holds no adapter.
    """
    checkpoint = load_checkpoint(path)
    meta = checkpoint.get('meta') or {}
    if metrics is None:
        metrics = logged_metrics(Path(path))
    return from_state(checkpoint['state_dict'], meta, metrics, os.fspath(path))


def from_state(
    state_dict: Mapping[str, Any],
    meta: Mapping[str, Any],
    metrics: Mapping[str, Any],
    path: str = '',
) -> AdapterFile:
    """Make an adapter of a state dict without its bases.

    Args:
        state_dict: With the records of the bases in it.
        meta: What a checkpoint says beside it; ``cfg`` is the config's text.
        metrics: What the adapter reached.
        path: Where it comes from, for errors.

    Raises:
        ValueError: If it has no record of a base.
    """
    state = {
        key: value
        for key, value in state_dict.items()
        if isinstance(value, Tensor)
    }
    records = [
        key for key in state if key == _INFO or key.endswith('.' + _INFO)
    ]
    if not records:
        raise ValueError(
            f"'{path}' holds no adapter: no backbone in it has a record of a "
            'frozen base. Give a checkpoint that was trained with one of '
            "mmflora's methods."
        )
    settings = read_settings(str(meta.get('cfg') or ''))
    ours = _part(meta, 'mmflora')
    layers = layers_in_order(state)
    backbones = {}
    for key in records:
        name = key.removesuffix(_INFO).removesuffix('.')
        prefix = f'{name}.' if name else ''
        try:
            described = decode_record(state.pop(key))
        except ValueError as error:
            raise ValueError(f"'{path}': {error}") from error
        if not _part(settings, 'model', 'parts'):  # which have their own keys
            described['base']['layout'] = layout_of_source(
                described['base']['source']
            )
        own = _part(settings, 'model', *(name.split('.') if name else ()))
        described['config'] = {
            key: value for key, value in own.items() if key != 'init_cfg'
        } or None
        described['layers'] = [
            layer.removeprefix(prefix)
            for layer in layers
            if layer.startswith(prefix)
        ]
        described['tuned'] = _part(ours, 'backbones', name).get('tuned') or []
        backbones[name] = described
    toolkit = ours.get('toolkit') or settings.get('default_scope')
    own = _part(settings, 'model')
    model = own.get('model_type') or own.get('type')
    trained = {'mmflora_of_training': str(ours.get('version') or '')}
    config = description(
        backbones,
        toolkit=None if toolkit is None else str(toolkit),
        model=None if model is None else str(model),
        dataset_meta=_dataset_meta(meta),
        versions=versions() | {k: v for k, v in trained.items() if v},
        metrics=dict(metrics),
        training={key: meta[key] for key in ('epoch', 'iter') if key in meta},
    )
    described = check_config(plain_json(config), path)
    return AdapterFile(described, state, path)


def layers_in_order(state: Iterable[str]) -> list[str]:
    """Return the adapted layers in a state dict in the model's order.

    A state dict names a layer's children before its adapter; the model's
    order has the layer first.
    """
    first: dict[str, int] = {}
    for index, key in enumerate(state):
        layer, sign, _ = key.partition(f'.{ADAPTER_PART}.')
        if sign:
            first.setdefault(layer, index)

    def place(layer: str) -> tuple[int, int]:
        below = [
            index
            for other, index in first.items()
            if other == layer or other.startswith(f'{layer}.')
        ]
        return min(below), layer.count('.')

    return sorted(first, key=place)


def to_checkpoint(adapter: AdapterFile) -> dict[str, Any]:
    """Return an adapter as a checkpoint of MMEngine.

    Returns:
        ``meta`` and ``state_dict``, in plain types.
    """
    config = adapter.config
    dataset_meta = dict(config['dataset_meta'])
    if isinstance(dataset_meta.get('classes'), list):
        dataset_meta['classes'] = tuple(dataset_meta['classes'])
    meta = dict(
        dataset_meta=dataset_meta,
        mmflora=dict(
            version=__version__,
            toolkit=config['toolkit'],
            metrics=config['metrics'],
            imported_from=adapter.path,
            backbones={
                name: dict(
                    method=described['method'],
                    base=described['base']['source'],
                    base_sha256=described['base']['sha256'],
                    base_saved_along=described['base']['source'] is None,
                    tuned=described.get('tuned') or [],
                )
                for name, described in config['backbones'].items()
            },
        ),
        **config['training'],
    )
    return dict(meta=meta, state_dict=adapter.state_dict())


def write_checkpoint(
    adapter: AdapterFile, path: str | os.PathLike[str]
) -> Path:
    """Write an adapter as a checkpoint that ``tools/test.py`` reads.

    Raises:
        OSError: If the disk is full or not writable; what was there before
            is still there.
        ValueError: If the name does not end in ``.pth``.
    """
    target = Path(path)
    if target.suffix != '.pth':
        raise ValueError(
            f"A checkpoint's name ends in .pth, got '{target}'. To write an "
            'adapter as a folder or .safetensors file, use '
            '`tools/adapters.py export`.'
        )
    check_finite(adapter.tensors, f"'{target}' was not written")
    checkpoint = to_checkpoint(adapter)
    checkpoint['state_dict'] = {
        key: contiguous(value)
        for key, value in checkpoint['state_dict'].items()
    }
    save_checkpoint(checkpoint, target)
    return target


def write_any(adapter: AdapterFile, path: str) -> Path:
    """Write a checkpoint where the name is that of one, else an adapter.

    Raises:
        OSError: If the disk is full or not writable.
        ValueError: If the name has another ending than those of adapters.
    """
    write = write_checkpoint if path.endswith('.pth') else write_adapter
    return write(adapter, path)


def _part(node: Any, *keys: str) -> Mapping[str, Any]:
    """Return what stands under some keys; nothing where it is no mapping."""
    for key in keys:
        node = node.get(key) if isinstance(node, Mapping) else None
    return node if isinstance(node, Mapping) else {}


def _dataset_meta(meta: Mapping[str, Any]) -> dict[str, Any]:
    found = _part(meta, 'dataset_meta')
    lower = {str(key).lower(): value for key, value in found.items()}
    return {
        key: lower[key] for key in ('classes', 'palette') if lower.get(key)
    }
