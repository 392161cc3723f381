"""LoRA adapters in the folders of huggingface/peft, in and out.

mmflora computes peft's LoRA with peft's own layers (``HFPEFT``), so that the
tensors are the same and only their names differ:
``base_model.model.<layer>.lora_A.weight`` in a folder is
``<layer>.adapter.lora_A.default.weight`` in a model.
"""

import json
import os
from pathlib import Path
from typing import Any

import torch
from mmengine.logging import print_log
from torch import Tensor, nn

from mmflora.adapter_files.adapter import contiguous
from mmflora.adapter_files.schema import (
    CONFIG_NAME,
    TENSORS_NAME,
    check_tensor_name,
)
from mmflora.adapters import adapted_layers
from mmflora.adapters.layers import AdaptedLayer
from mmflora.files.atomic import write_text
from mmflora.files.tensor_files import read_tensors, write_tensors

from .formats import FORMATS, Format

_PREFIX = 'base_model.model.'
# In the folder, and in the adapter of a layer.
_NAMES = {
    'lora_A.weight': 'lora_A.default.weight',
    'lora_B.weight': 'lora_B.default.weight',
    'lora_B.bias': 'lora_B.default.bias',
    'lora_magnitude_vector': 'lora_magnitude_vector.default.weight',
}
# What gives the tensors their meaning, with peft's defaults.
_SETTINGS = dict(
    r=8, lora_alpha=8, use_rslora=False, use_dora=False, lora_bias=False
)
# Settings of peft that change nothing of what a stored LoRA means, or that
# are looked at one by one.
_KNOWN = {
    *_SETTINGS,
    *('peft_type', 'peft_version', 'task_type', 'auto_mapping'),
    *('base_model_name_or_path', 'revision', 'inference_mode'),
    *('target_modules', 'exclude_modules', 'modules_to_save', 'bias'),
    *('layers_to_transform', 'layers_pattern', 'lora_dropout'),
    *('fan_in_fan_out', 'init_lora_weights', 'rank_pattern'),
    *('alpha_pattern', 'loftq_config', 'eva_config', 'corda_config'),
    *('lora_ga_config', 'megatron_core', 'megatron_config'),
    *('qalora_group_size', 'runtime_config', 'ensure_weight_tying'),
    *('velora_config',),
}
# Starts that leave the frozen weight as it is.
_STARTS = (True, False, 'gaussian', 'orthogonal', 'eva')


@torch.no_grad()
def load_peft_lora(
    backbone: nn.Module, folder: str | os.PathLike[str]
) -> list[str]:
    """Load a LoRA adapter of peft into a backbone that computes it.

    Modules that peft saved whole beside the LoRA (``modules_to_save``, such
    as a classifier) are left behind: a backbone has no place for them.

    Args:
        backbone: With ``adapter=dict(type='HFPEFT', peft_type='LORA', ...)``
            of the same settings on the same layers; its names are those of
            the model that the adapter was trained on, as for timm's
            ConvNeXts.
        folder: With ``adapter_config.json`` and
            ``adapter_model.safetensors``.

    Returns:
        The names of the layers.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If it is no LoRA over the weights as they were published,
            or settings, layers or shapes differ; nothing has changed then.
    """
    place = Path(folder)
    theirs = _read_config(place / CONFIG_NAME)
    layers, ours = _lora_layers(backbone)
    for name, absent in _SETTINGS.items():
        pair = theirs.get(name, absent), getattr(ours, name, absent)
        if pair[0] != pair[1]:
            raise ValueError(
                f"'{folder}' has {name}={pair[0]!r}, the model {pair[1]!r}. "
                f'Set {name} of the adapter in the config to that of the file.'
            )
    tensors = _read_tensors(place / TENSORS_NAME, theirs)
    expected = _parameters(layers)
    wrong = sorted(tensors.keys() ^ expected.keys()) + [
        f'{key} ({tuple(value.shape)}, {tuple(expected[key].shape)} wanted)'
        for key, value in tensors.items()
        if key in expected and value.shape != expected[key].shape
    ]
    if wrong:
        raise ValueError(
            f"'{folder}' does not fit the model's LoRA layers: {len(wrong)} "
            f'tensors differ, such as {wrong[:3]}. Choose the layers that '
            'the file has by `targets`.'
        )
    for key, value in tensors.items():
        expected[key].copy_(value)
    return list(layers)


def write_peft_lora(
    backbone: nn.Module, folder: str | os.PathLike[str]
) -> Path:
    """Write a backbone's LoRA adapters as a folder that peft loads.

    ``PeftModel.from_pretrained(model, folder)`` puts it on a model whose
    layers have the backbone's names.

    Args:
        backbone: With ``adapter=dict(type='HFPEFT', peft_type='LORA', ...)``.
        folder: Where to write; it is made if need be.

    Returns:
        The folder.

    Raises:
        OSError: If the disk is full or not writable.
        ValueError: If the adapters are no LoRA of one setting.
    """
    layers, config = _lora_layers(backbone)
    described = config.to_dict() | dict(
        target_modules=sorted(layers), inference_mode=True
    )
    described = {
        key: sorted(value) if isinstance(value, set) else value
        for key, value in described.items()
    }
    own = _parameters(layers)
    tensors = {key: contiguous(value) for key, value in own.items()}
    place = Path(folder)
    write_tensors(place / TENSORS_NAME, tensors, {})
    text = json.dumps(described, indent=2, sort_keys=True, default=str)
    write_text(place / CONFIG_NAME, text + '\n')
    return place


def _lora_layers(backbone: nn.Module) -> tuple[dict[str, AdaptedLayer], Any]:
    """Return the layers with peft's LoRA, and the configuration of all."""
    layers = adapted_layers(backbone)
    for name, layer in layers.items():
        config = getattr(layer.adapter, 'config', None)
        kind = str(getattr(config, 'peft_type', type(layer.adapter).__name__))
        if kind.rpartition('.')[2] != 'LORA':
            raise ValueError(
                f"Layer '{name}' has an adapter of {kind}. For peft's LoRA "
                "the config needs adapter=dict(type='HFPEFT', "
                "peft_type='LORA', r=..., lora_alpha=...)."
            )
    configs = [layer.adapter.config for layer in layers.values()]
    if not configs:
        raise ValueError(
            f'{type(backbone).__name__} has no adapted layer: give a '
            "backbone with adapter=dict(type='HFPEFT', peft_type='LORA')."
        )
    kinds = {
        tuple(getattr(config, name, None) for name in _SETTINGS)
        for config in configs
    }
    if len(kinds) != 1:
        raise ValueError(
            f'The layers have LoRAs of {len(kinds)} settings; a folder of '
            'peft is read and written for one. Leave options out of '
            '`targets`.'
        )
    return layers, configs[0]


def _parameters(layers: dict[str, AdaptedLayer]) -> dict[str, Tensor]:
    """Return the adapters' parameters by their keys in a folder."""
    return {
        f'{_PREFIX}{name}.{theirs}': own[ours]
        for name, layer in layers.items()
        for own in [dict(layer.adapter.named_parameters())]
        for theirs, ours in _NAMES.items()
        if ours in own
    }


def _read_config(file: Path) -> dict[str, Any]:
    """Read a LoRA's settings, and refuse what would mean something else."""
    if not file.is_file():
        raise FileNotFoundError(
            f"'{file}' is not there. Give a folder that peft's "
            'save_pretrained() wrote.'
        )
    try:
        config = json.loads(file.read_text())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"'{file}' is no JSON ({error}).") from error
    kind = config.get('peft_type') if isinstance(config, dict) else None
    if kind != 'LORA':
        raise ValueError(
            f"'{file}': peft_type is {kind!r}; LORA alone can be imported."
        )
    saved = config.get('modules_to_save') or []
    if not isinstance(saved, list) or not all(
        isinstance(name, str) for name in saved
    ):
        raise ValueError(
            f"'{file}' has modules_to_save={saved!r:.60}; it is a list of "
            'names. Take another copy of the file.'
        )
    start = config.get('init_lora_weights', True)
    unknown = {key: v for key, v in config.items() if v and key not in _KNOWN}
    uneven = [n for n in ('rank_pattern', 'alpha_pattern') if config.get(n)]
    reason = ''
    if uneven:
        reason = (
            f'sets {uneven[0]}: ranks that differ by layer cannot be imported.'
        )
    elif config.get('bias', 'none') != 'none':
        reason = (
            f'has bias={config["bias"]!r}, so that biases of the base were '
            "trained, too; only LoRAs with bias='none' can be imported."
        )
    elif not isinstance(start, (bool, str)) or start not in _STARTS:
        reason = (
            f'has init_lora_weights={start!r}, a start that changes the base '
            'itself: the LoRA does not belong to the published weights. Let '
            "peft convert it (save_pretrained's "
            '`path_initial_model_for_weight_conversion`), and import that.'
        )
    elif unknown:
        reason = (
            f'sets {unknown!r:.200}, a variant of LoRA that cannot be '
            'imported: it may mean something else by the same tensors.'
        )
    if reason:
        raise ValueError(f"'{file}' {reason}")
    return config


def _read_tensors(file: Path, config: dict[str, Any]) -> dict[str, Tensor]:
    """Read a LoRA's tensors without the modules that were saved whole."""
    if not file.is_file():
        raise FileNotFoundError(
            f"'{file}' is not there. Older adapters of peft are pickles "
            '(adapter_model.bin), which are not read: save them again with '
            'a newer peft.'
        )
    _, tensors = read_tensors(file)
    saved = set(config.get('modules_to_save') or ())
    found = {}
    for name, value in tensors.items():
        check_tensor_name(name, str(file))
        if 'lora_' in name or not saved & set(name.split('.')):
            found[name] = value
    if len(found) < len(tensors):
        print_log(
            f'Left behind are {len(tensors) - len(found)} tensors of '
            f'modules_to_save={sorted(saved)}: a backbone has no place for '
            'them.',
            logger='current',
        )
    return found


FORMATS['peft'] = Format(load_peft_lora, write_peft_lora)
