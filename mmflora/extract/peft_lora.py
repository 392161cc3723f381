"""LoRA adapters in the folders of huggingface/peft, in and out.

mmflora computes peft's LoRA with peft's own layers (``HFPEFT``), so that the
tensors are the same and only their names differ:
``base_model.model.<layer>.lora_A.weight`` in a folder is
``<layer>.adapter.lora_A.default.weight`` in a model.
"""

import copy
import json
import os
from pathlib import Path
from typing import Any

import torch
from mmengine.logging import print_log
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from mmflora.adapter_files.adapter import contiguous
from mmflora.adapter_files.schema import (
    CONFIG_NAME,
    TENSORS_NAME,
    check_tensor_name,
)
from mmflora.adapters import adapted_layers
from mmflora.adapters.layers import AdaptedLayer
from mmflora.files.atomic import AtomicLocalBackend

from .formats import FORMATS, Format

_PREFIX = 'base_model.model.'
# In the folder, and in the adapter of a layer.
_NAMES = {
    'lora_A.weight': 'lora_A.default.weight',
    'lora_B.weight': 'lora_B.default.weight',
    'lora_B.bias': 'lora_B.default.bias',
    'lora_magnitude_vector': 'lora_magnitude_vector.default.weight',
}
# What gives the tensors their meaning.
_SETTINGS = ('r', 'lora_alpha', 'use_rslora', 'use_dora', 'lora_bias')
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
_ABSENT: dict[str, Any] = dict(r=8, lora_alpha=8)


@torch.no_grad()
def load_peft_lora(
    backbone: nn.Module, folder: str | os.PathLike[str]
) -> list[str]:
    """Load a LoRA adapter of peft into a backbone that computes it.

    Args:
        backbone: With ``adapter=dict(type='HFPEFT', peft_type='LORA', ...)``
            of the same settings on the same layers; its names are those of
            the model that the adapter was trained on, as for timm's
            ConvNeXts.
        folder: With ``adapter_config.json`` and
            ``adapter_model.safetensors``.

    Modules that peft saved whole beside the LoRA (``modules_to_save``, such
    as a classifier) are left behind: a backbone has no place for them.

    Returns:
        The names of the layers.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If it is no LoRA over the weights as they were published,
            or settings, layers or shapes differ; nothing has changed then.
    """
    place = Path(folder)
    theirs = _read_config(place)
    layers = _lora_layers(backbone)
    ours = _one_config(layers)
    for name in _SETTINGS:
        absent = _ABSENT.get(name, False)
        pair = theirs.get(name, absent), getattr(ours, name, absent)
        if pair[0] != pair[1]:
            raise ValueError(
                f"'{folder}' has {name}={pair[0]!r}, the model {pair[1]!r}. "
                f'Set {name} of the adapter in the config to that of the file.'
            )
    tensors = _without_saved_modules(
        _read_tensors(place / TENSORS_NAME), theirs
    )
    expected = {
        f'{_PREFIX}{name}.{key}': value
        for name, layer in layers.items()
        for key, value in _own(layer).items()
    }
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
    layers = _lora_layers(backbone)
    config = copy.deepcopy(_one_config(layers))
    config.target_modules = sorted(layers)
    config.inference_mode = True
    described = {
        key: sorted(value) if isinstance(value, set) else value
        for key, value in config.to_dict().items()
    }
    tensors = {
        f'{_PREFIX}{name}.{key}': contiguous(value)
        for name, layer in layers.items()
        for key, value in _own(layer).items()
    }
    place, backend = Path(folder), AtomicLocalBackend()
    backend.put(save(tensors, {'format': 'pt'}), place / TENSORS_NAME)
    text = json.dumps(described, indent=2, sort_keys=True, default=str)
    backend.put_text(text + '\n', place / CONFIG_NAME)
    return place


def _lora_layers(backbone: nn.Module) -> dict[str, AdaptedLayer]:
    layers = adapted_layers(backbone)
    for name, layer in layers.items():
        kind = getattr(layer.adapter, 'config', None)
        kind = str(getattr(kind, 'peft_type', type(layer.adapter).__name__))
        if kind.rpartition('.')[2] != 'LORA':
            raise ValueError(
                f"Layer '{name}' has an adapter of {kind}. For peft's LoRA "
                "the config needs adapter=dict(type='HFPEFT', "
                "peft_type='LORA', r=..., lora_alpha=...)."
            )
    if not layers:
        raise ValueError(
            f'{type(backbone).__name__} has no adapted layer: give a '
            "backbone with adapter=dict(type='HFPEFT', peft_type='LORA')."
        )
    return layers


def _one_config(layers: dict[str, AdaptedLayer]) -> Any:
    configs = [layer.adapter.config for layer in layers.values()]
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
    return configs[0]


def _own(layer: AdaptedLayer) -> dict[str, Tensor]:
    """Return an adapter's parameters by peft's names in a file."""
    own = dict(layer.adapter.named_parameters())
    return {
        theirs: own[ours] for theirs, ours in _NAMES.items() if ours in own
    }


def _read_config(place: Path) -> dict[str, Any]:
    file = place / CONFIG_NAME
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
    uneven = [
        key for key in ('rank_pattern', 'alpha_pattern') if config.get(key)
    ]
    if uneven:
        raise ValueError(
            f"'{file}' sets {uneven[0]}: ranks that differ by layer cannot "
            'be imported.'
        )
    if config.get('bias', 'none') != 'none':
        raise ValueError(
            f"'{file}' has bias={config['bias']!r}, so that biases of the "
            "base were trained, too; only LoRAs with bias='none' can be "
            'imported.'
        )
    if config.get('init_lora_weights', True) not in _STARTS:
        raise ValueError(
            f"'{file}' has init_lora_weights="
            f'{config["init_lora_weights"]!r}, a start that changes the base '
            'itself: the LoRA does not belong to the published weights. Let '
            "peft convert it (save_pretrained's "
            '`path_initial_model_for_weight_conversion`), and import that.'
        )
    unknown = {key: v for key, v in config.items() if v and key not in _KNOWN}
    if unknown:
        raise ValueError(
            f"'{file}' sets {unknown!r:.200}, a variant of LoRA that cannot "
            'be imported: it may mean something else by the same tensors.'
        )
    return config


def _without_saved_modules(
    tensors: dict[str, Tensor], config: dict[str, Any]
) -> dict[str, Tensor]:
    """Leave modules behind that peft saved whole beside the LoRA."""
    saved = set(config.get('modules_to_save') or ())
    left = {
        key
        for key in tensors
        if saved & set(key.split('.')) and 'lora_' not in key
    }
    if left:
        print_log(
            f'Left behind are {len(left)} tensors of modules_to_save='
            f'{sorted(saved)}: a backbone has no place for them.',
            logger='current',
        )
    return {key: tensors[key] for key in tensors if key not in left}


def _read_tensors(file: Path) -> dict[str, Tensor]:
    if not file.is_file():
        raise FileNotFoundError(
            f"'{file}' is not there. Older adapters of peft are pickles "
            '(adapter_model.bin), which are not read: save them again with '
            'a newer peft.'
        )
    try:
        tensors = load_file(str(file))
    except (SafetensorError, OSError) as error:
        raise ValueError(
            f"'{file}' is truncated, damaged or no .safetensors file "
            f'({error}).'
        ) from error
    for name in tensors:
        check_tensor_name(name, str(file))
    return tensors


FORMATS['peft'] = Format(load_peft_lora, write_peft_lora)
