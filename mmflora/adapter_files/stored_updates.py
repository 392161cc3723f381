"""Updates read from the tensors of a file, without a model.

The method's own class is built on the stored shapes and filled, so that its
formula is the one that counts.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from mmflora.adapters import Adapter
from mmflora.adapters.functional import mode_product
from mmflora.registry import ADAPTERS

from .adapter import AdapterFile
from .method_options import layer_options, method_name
from .updates import TuckerUpdate

Options = Mapping[str, Any]
Tensors = Mapping[str, Tensor]
# peft's names of the factors A and B, and of B's bias.
DOWN = 'lora_A.default.weight'
UP = 'lora_B.default.weight'


def stored_updates(adapter: AdapterFile) -> dict[str, TuckerUpdate]:
    """Return the updates in a file by the names of their layers.

    Raises:
        ValueError: If a layer has an adapter whose update depends on the
            frozen weight, which the file does not hold.
    """
    found = {}
    for layer, tensors in adapter.layers().items():
        options = layer_options(adapter, layer)
        name = method_name(options)
        if name not in READERS or options.get('use_dora'):
            raise ValueError(
                f"'{adapter.path}': layer '{layer}' has an adapter of type "
                f'{name}, whose update is not in the file alone; '
                f'{", ".join(READERS)} are read so. With --config, the '
                'config that it was trained with, the model is built and '
                'asked for its updates, whatever the method.'
            )
        found[layer] = READERS[name](tensors, options)
    if not found:
        kind = method_name(dict(_first_method(adapter)))
        raise ValueError(
            f"'{adapter.path}' has no layers with an adapter ({kind} trains "
            "the base's own parameters, or nothing): its changes are seen "
            'against the base alone. Give --config, the config that it was '
            'trained with.'
        )
    return found


def _first_method(adapter: AdapterFile) -> Mapping[str, Any]:
    for backbone in adapter.config['backbones'].values():
        return backbone['method'].get('adapter') or {}
    return {}


def restored(tensors: Tensors, options: Options) -> Any:
    """Return the adapter of one layer, filled, in float64.

    Args:
        tensors: Its tensors by their names in the adapter.
        options: The method's settings with its ``type``.
    """
    kind: Any = ADAPTERS.get(method_name(dict(options)))
    settings = {k: v for k, v in options.items() if k != 'type'}
    # On the meta device: a start that depends on the weight costs nothing.
    weight = torch.empty(weight_shape(tensors, options), device='meta')
    adapter: Adapter = kind(weight, **settings)
    wide = {key: value.double() for key, value in tensors.items()}
    adapter.load_state_dict(wide, assign=True)
    return adapter.requires_grad_(False)


def weight_shape(tensors: Tensors, options: Options) -> tuple[int, ...]:
    """Return the shape of the weight that stored tensors belong to.

    Of a grouped convolution with loralib's LoRA it is one group's, which
    makes no difference to the update.
    """
    if 'factors.0' in tensors:
        modes = tensors['core'].dim()
        return tuple(len(tensors[f'factors.{mode}']) for mode in range(modes))
    if 'left' in tensors:
        return len(tensors['left']), *tensors['right'].shape[1:]
    if 'scale' in tensors:
        return len(tensors['scale']), 1
    up, down = tensors['up'], tensors['down']
    kernel = _loralib_kernel(up, options)
    if kernel > 1:
        return len(up) // kernel, down.shape[1] // kernel, kernel, kernel
    return len(up), *down.shape[1:]


def _loralib_kernel(up: Tensor, options: Options) -> int:
    """Return the kernel's size that loralib's factors are of, 1 for others."""
    if options.get('form') != 'loralib':
        return 1
    kind: Any = ADAPTERS.get(method_name(dict(options)))
    rank = kind(torch.empty(1, 1, device='meta'), **_settings(options)).rank
    return up.shape[1] // rank


def _settings(options: Options) -> dict[str, Any]:
    return {k: v for k, v in options.items() if k != 'type'}


def _tucker(tensors: Tensors, options: Options) -> TuckerUpdate:
    adapter = restored(tensors, options)
    return TuckerUpdate(adapter.scale * adapter.core, tuple(adapter.factors))


def _low_rank(tensors: Tensors, options: Options) -> TuckerUpdate:
    adapter = restored(tensors, options)
    update = adapter.low_rank()
    if update is not None:
        return product(update.left, update.right)
    # loralib's form of a kernel: a matrix whose entries are the update's.
    return product(adapter.scale * adapter.up, adapter.down)


def _peft_lora(tensors: Tensors, options: Options) -> TuckerUpdate:
    if UP not in tensors or DOWN not in tensors:
        raise ValueError(
            f'A LoRA of peft has the tensors {sorted(tensors)}; {UP} and '
            f'{DOWN} are read, those of an embedding are not. Give --config.'
        )
    up = peft_scale(options) * tensors[UP].double().flatten(1)
    return product(up, tensors[DOWN].double())


def peft_scale(options: Options) -> float:
    """Return what peft multiplies the product of a LoRA's factors by."""
    from mmflora.adapters.hf_peft.catalogue import config_class

    settings = {
        k: v for k, v in _settings(options).items() if k != 'peft_type'
    }
    config: Any = config_class('LORA')(**settings)
    root = config.use_rslora
    return config.lora_alpha / (math.sqrt(config.r) if root else config.r)


def product(left: Tensor, right: Tensor) -> TuckerUpdate:
    """Return ΔW = L R as an update of two modes: output, and all else.

    Args:
        left: Shape ``(out, rank)``.
        right: Shape ``(rank, in, *kernel)``.
    """
    core = torch.eye(left.shape[1], dtype=torch.float64)
    return TuckerUpdate(core, (left.double(), right.double().flatten(1).T))


def as_matrix(update: TuckerUpdate) -> TuckerUpdate:
    """Return an update of a kernel as one of two modes."""
    right = update.core
    for mode, factor in enumerate(update.factors[1:], start=1):
        right = mode_product(right, factor, mode)
    return product(update.factors[0], right)


READERS = {
    'FLoRA': _tucker,
    'LoRA': _low_rank,
    'PiSSA': _low_rank,
    'OLoRA': _low_rank,
    'LoRAXS': _low_rank,
    'HFPEFT LORA': _peft_lora,
}
"""How the updates of each method are read from its tensors."""
