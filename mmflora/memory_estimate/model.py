"""The model of a config and its optimizer, without weights from files."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
from mmengine.config import Config
from mmengine.optim import OptimWrapper, build_optim_wrapper
from torch import nn

from mmflora.config.build import build_model

# Keys of optimizer wrappers that are about the run, not about what is kept.
_RUN_KEYS = ('loss_scale', 'dtype', 'use_fsdp', 'accumulative_counts')
_HALF_TYPES = {'float16': torch.float16, 'bfloat16': torch.bfloat16}


def check_trains(cfg: Config) -> None:
    """Check that a config describes a training.

    Raises:
        ValueError: If it does not; says what is missing.
    """
    wanted = ('model', 'train_dataloader', 'optim_wrapper')
    missing = [key for key in wanted if not cfg.get(key)]
    if missing:
        raise ValueError(
            f"'{cfg.filename}' is no config of a training: it has no "
            f'{", ".join(missing)}. Give one that tools/train.py takes, not '
            'a file of configs/_base_.'
        )


def build_blank_model(cfg: Config, device_type: str) -> nn.Module:
    """Build the model of a config; no file of weights is read.

    Args:
        cfg: The config; it is not changed.
        device_type: Where it will run: SyncBN needs a GPU, and is BN without.
    """
    gpu = device_type == 'cuda'
    return build_model(cfg, weights=False, sync_bn=gpu).train()


def build_optimizer(model: nn.Module, cfg: Config) -> OptimWrapper:
    """Build the optimizer wrapper of a config, of the plain kind.

    Mixed precision and sharding are the step's, not the optimizer's.
    """
    settings = dict(cfg.optim_wrapper.to_dict(), type='OptimWrapper')
    for key in _RUN_KEYS:
        settings.pop(key, None)
    return build_optim_wrapper(model, settings)


def whole_autocast(
    cfg: Config, device_type: str
) -> Callable[[], AbstractContextManager[Any]]:
    """Return what opens the autocast that a config puts around its step."""
    settings = cfg.optim_wrapper
    if settings.get('type') != 'AmpOptimWrapper':
        return nullcontext
    dtype = _HALF_TYPES.get(settings.get('dtype') or 'float16')
    return partial(torch.autocast, device_type, dtype=dtype)
