"""The parts of a model that FSDP gathers by themselves, and its checks."""

import re
from collections.abc import Iterable, Sequence
from typing import Any

from mmengine.dist import all_gather_object
from torch import nn
from torch.distributed.fsdp import FSDPModule

from mmflora.adapters import sharing_layers
from mmflora.adapters.quantized_base import refuse_quantized
from mmflora.checkpoint.record import base_records


class GatherForEvaluation:
    """Gathers all units for an evaluation, and gives them up after it.

    Args:
        units: What is gathered by itself in training.
        reshard: Whether units are given up after a forward pass in training.
    """

    def __init__(self, units: Sequence[Any], reshard: bool) -> None:
        self.units = units
        self.reshard = reshard
        self.gathered = False

    def __call__(self, module: nn.Module, _inputs: Any) -> None:
        if module.training and not self.gathered:
            return
        self.gathered = not module.training
        for unit in self.units:
            unit.set_reshard_after_forward(
                self.reshard and module.training, recurse=False
            )
            if module.training:
                unit.reshard()
            else:
                unit.unshard()  # nothing, where it is gathered


def find_units(model: nn.Module, patterns: Iterable[str]) -> list[nn.Module]:
    """Return the modules that the patterns match, inner ones first.

    Raises:
        ValueError: If a pattern matches none.
    """
    found: dict[str, nn.Module] = {}
    for pattern in patterns:
        matched = {
            name: module
            for name, module in model.named_modules()
            if re.fullmatch(pattern, name)
        }
        if not matched:
            names = [n for n, _ in model.named_modules() if n.count('.') == 2]
            raise ValueError(
                f'FSDPStrategy: `units` {pattern!r} matches the whole name of '
                'no module. Name the blocks of the backbone, such as '
                r"strategy.units='backbone\.layer\d\.\d+'; there are "
                f'{", ".join(names[:6])}, …'
            )
        found.update(matched)
    order = [name for name, _ in model.named_modules() if name in found]
    return [found[name] for name in reversed(order)]


def check_can_shard(model: nn.Module) -> None:
    """Refuse models whose units are not called as modules.

    Raises:
        ValueError: If there is such a one.
    """
    refuse_quantized(model, 'FSDPStrategy')
    sharing = sharing_layers(model)
    if len(sharing) > 1:
        raise ValueError(
            f"FSDPStrategy: the adapters of '{sharing[0]}' and "
            f'{len(sharing) - 1} more layers share parameters, which would '
            'be gathered for the first of them alone. Train this method with '
            'DDP or DeepSpeed (stage 2), or take one without shared '
            'parameters, such as FLoRA.'
        )
    for name, module in model.named_modules():
        if getattr(module, 'with_cp', None) == 'mlp':
            raise ValueError(
                f"FSDPStrategy: with_cp='mlp' of '{name}' runs parts of a "
                'block by themselves, so that the block cannot be gathered '
                'when it is called. Set with_cp=True or with_cp=False.'
            )
        if isinstance(module, FSDPModule):
            raise ValueError(
                f"FSDPStrategy: '{name or 'the model'}' is sharded already. "
                'Give the strategy the model as its class builds it.'
            )


def check_same_bases(model: nn.Module) -> None:
    """Check that all processes stand on the same base.

    Raises:
        ValueError: If their files differ.
    """
    own = {
        name: record.sha256
        for name, (_, record) in base_records(model).items()
    }
    for rank, other in enumerate(all_gather_object(own)):
        if other != own:
            raise ValueError(
                'The processes stand on different bases: SHA-256 '
                f'{own} here, {other} in process {rank}. Give all machines '
                'the same file.'
            )
