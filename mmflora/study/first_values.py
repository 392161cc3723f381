"""The first values of neck and heads, the same for all methods of a seed.

Heads are drawn at random after the adapters, from the same generators.  So
what a head starts with would depend on how many numbers the adapters drew.
Here the values are drawn once, in a model without adapters, and every run of
the task with that seed starts with them.
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from mmengine.config import Config
from torch import Tensor, nn

from mmflora.checkpoint.gaps import without_wrappers
from mmflora.checkpoint.roles import Role, parameter_roles
from mmflora.config.build import build_runner
from mmflora.files.atomic import staged_file
from mmflora.files.pickles import read_safely


def shared_first_values(cfg: Config, path: Path) -> dict[str, Tensor]:
    """Return the first values of a task and seed; draw them if need be.

    Args:
        cfg: The config of the frozen base, with the seed.
        path: Where they are kept.
    """
    with FileLock(f'{path}.lock'):
        if not path.is_file():
            runner = build_runner(cfg)
            runner._init_model_weights()
            runner.load_or_resume()
            model = without_wrappers(runner.model)
            values = {
                name: parameter.detach().cpu().clone()
                for name, parameter in _new_parameters(model)
            }
            with staged_file(path) as partial:
                torch.save(values, partial)
    values = read_safely(path, 'cpu')
    return dict(values)


@torch.no_grad()
def start_with(model: nn.Module, values: dict[str, Tensor]) -> dict[str, str]:
    """Set the first values of neck, heads and new parameters.

    Args:
        model: The model, not wrapped.
        values: The values by the parameters' names.

    Returns:
        A hash of what each child of the model starts with.

    Raises:
        ValueError: If the model has a new parameter that they lack, or of
            another shape: a method must not change neck or heads.
    """
    hashes: dict[str, Any] = {}
    for name, parameter in sorted(_new_parameters(model)):
        value = values.get(name)
        if value is None or value.shape != parameter.shape:
            there = 'no such parameter' if value is None else value.shape
            raise ValueError(
                f"'{name}' has the shape {tuple(parameter.shape)}; the model "
                f'of the frozen base has {there}. All methods of a task need '
                'the same neck and heads. Leave them as they are in '
                'cfg_options of the method.'
            )
        parameter.copy_(value)
        child = name.split('.')[0]
        known = hashes.setdefault(child, hashlib.sha256())
        known.update(name.encode())
        known.update(tensor_bytes(parameter))
    return {child: known.hexdigest()[:16] for child, known in hashes.items()}


def tensor_bytes(tensor: Tensor) -> bytes:
    """Return the bytes of a tensor's values."""
    plain = tensor.detach().cpu().contiguous()
    return plain.reshape(-1).view(torch.uint8).numpy().tobytes()


def _new_parameters(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Yield what no base holds and no adapter is."""
    for item in parameter_roles(model):
        if item.role in (Role.HEAD, Role.NEW):
            yield item.name, item.parameter
