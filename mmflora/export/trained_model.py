"""Models built from a config, and filled by a checkpoint without a gap."""

from collections.abc import Mapping
from typing import Any

import torch
from mmengine.config import Config
from torch import nn

from mmflora.adapter_files.loaders import load_from_local
from mmflora.checkpoint import check_source
from mmflora.config import build
from mmflora.files.training_checkpoints import checkpoint_file


def build_model(cfg: Config) -> nn.Module:
    """Build the model of a config, in the scope of its toolkit.

    Backbones of mmflora compute in float32, whatever their ``autocast``.

    Args:
        cfg: A config of MMDetection, MMRotate or MMSegmentation.

    Raises:
        FileNotFoundError: If a base's file is missing.
        ValueError: If ``default_scope`` names none of these toolkits.
    """
    return build.build_model(cfg, autocast=False)


def read_checkpoint(path: str) -> dict[str, Any]:
    """Read a checkpoint or an adapter without running anything in it.

    Args:
        path: A checkpoint (a file, or DeepSpeed's folder), an adapter (its
            folder or ``.safetensors``), or weights as ``.safetensors``.

    Returns:
        With ``state_dict`` and ``meta``.

    Raises:
        FileNotFoundError: If it is missing.
        ValueError: If it is damaged, holds no weights, or objects that could
            run code.
    """
    path = checkpoint_file(path)
    check_source(path)
    # Mapped: its tensors are copied into a model, one by one.
    checkpoint = load_from_local(path, 'cpu', mmap=True)
    if not isinstance(checkpoint, Mapping):
        checkpoint = {}
    state = checkpoint.get('state_dict', checkpoint)
    if not any(isinstance(value, torch.Tensor) for value in state.values()):
        raise ValueError(f"'{path}' holds no weights of a model.")
    state = {key.removeprefix('module.'): state[key] for key in state}
    return dict(state_dict=state, meta=dict(checkpoint.get('meta') or {}))


def load_whole(model: nn.Module, state: Mapping[str, Any], name: str) -> None:
    """Load a state dict that leaves nothing of the model as it was built.

    The base of an adapted backbone may be missing: it is checked against the
    one that the adapters were trained over.

    Args:
        model: The model.
        state: The state dict of an adapter checkpoint, or a whole one.
        name: The checkpoint's name, for the error.

    Raises:
        ValueError: If a key is missing, unknown or of another shape, or the
            base is another one.
        FileNotFoundError: If the base that the adapters need is missing.
    """
    try:
        model.load_state_dict(state, strict=True)
    except RuntimeError as error:
        raise ValueError(
            f"The checkpoint '{name}' does not fill the model of the config: "
            f'{error}\nUse the config that it was trained with.'
        ) from error


def load_trained(cfg: Config, checkpoint: str) -> tuple[nn.Module, dict]:
    """Build the model of a config and load a checkpoint in full.

    Args:
        cfg: The config that the checkpoint was trained with.
        checkpoint: The checkpoint's file.

    Returns:
        The model in evaluation mode, and the checkpoint's ``meta``.

    Raises:
        FileNotFoundError: If the file or the base's is missing.
        ValueError: If either does not fit.
    """
    content = read_checkpoint(checkpoint)
    model = build_model(cfg)
    load_whole(model, content['state_dict'], checkpoint)
    return model.eval(), content['meta']
