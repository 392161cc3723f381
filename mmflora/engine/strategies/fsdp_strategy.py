"""Fully sharded training within MMEngine's FlexibleRunner.

PyTorch's ``fully_shard`` shards every parameter by itself.  MMEngine's own
``FSDPStrategy`` joins the parameters of a unit to one flat tensor instead,
which must be of one type: a base in bfloat16 and adapters in float32 cannot
be in one, and adapters cannot be units, as their layers read them without
calling them.
"""

import re
from collections import OrderedDict
from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any

import torch
from mmengine._strategy import DDPStrategy
from mmengine._strategy.single_device import SingleDeviceStrategy
from mmengine.device import get_device
from mmengine.dist import barrier, broadcast, is_main_process
from mmengine.model import BaseDataPreprocessor
from torch import Tensor, nn
from torch.distributed import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

from mmflora.checkpoint.sharded import gather, shard_like
from mmflora.checkpoint.state import adapter_state_dict
from mmflora.registry import STRATEGIES

from .checkpoint_file import describe_run, write_checkpoint
from .fsdp_units import (
    GatherForEvaluation,
    check_can_shard,
    check_same_bases,
    find_units,
)

UNITS = r'backbone\.(.*\.)?(blocks|layers|layer\d+)\.\d+'


@STRATEGIES.register_module()
class FSDPStrategy(DDPStrategy):
    """Shards parameters, gradients and optimizer state over all processes.

    Each unit (a block of the backbone) is gathered when it computes and
    given up afterwards; the rest of the model stays gathered during a step.
    In evaluation everything is gathered once, as processes that test images
    of different sizes call the backbone a different number of times.

    Checkpoints are the ordinary ones, adapters and heads or the whole model:
    process 0 gathers them tensor by tensor and writes one file.  They go
    from one process to any number and back.  Each process reads the base by
    itself while the model is built, so that the memory of the machine must
    hold it as often as it has processes.

    With one process, without a launcher, nothing is sharded.

    Args:
        units: Patterns of the modules that are gathered by themselves; each
            must match a module's whole name, and these modules must be
            called (not only read) by the model.
        reshard_after_forward: Whether units are given up after the forward
            pass too, and gathered once more in the backward pass.
        param_dtype: ``'bfloat16'`` or ``'float16'``: gather units in this
            type, which halves the traffic of float32 parameters; their
            inputs and outputs have it too.  Gradients are reduced in
            float32.
        **kwargs: As for MMEngine's strategies.

    Raises:
        ValueError: If ``units`` matches nothing, or the model cannot be
            sharded.

    Example:
        >>> runner_type = 'FlexibleRunner'
        >>> strategy = dict(type='mmflora.FSDPStrategy')
    """

    def __init__(
        self,
        *,
        units: str | Sequence[str] = UNITS,
        reshard_after_forward: bool = True,
        param_dtype: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if param_dtype not in (None, 'bfloat16', 'float16'):
            raise ValueError(
                'FSDPStrategy: `param_dtype` is None, bfloat16 or float16, '
                f'got {param_dtype!r}.'
            )
        self.units = [units] if isinstance(units, str) else list(units)
        self.reshard_after_forward = reshard_after_forward
        self.param_dtype = getattr(torch, param_dtype) if param_dtype else None

    def _init_model_weights(self, model: nn.Module) -> nn.Module:
        """Draw new weights, the same on all processes."""
        wanted = self.dispatch_kwargs.get('init_weights_for_test_or_val', True)
        init_weights: Any = getattr(model, 'init_weights', None)
        if init_weights is not None and wanted:
            init_weights()
            check_same_bases(model)
            # Bases in place are known to be equal, and large.
            with adapter_state_dict():
                for tensor in model.state_dict().values():
                    broadcast(tensor)
        return model

    def _wrap_model(self, model: nn.Module) -> nn.Module:
        """Shard the model in place, where there are several processes."""
        if not self.distributed:
            return SingleDeviceStrategy._wrap_model(self, model)
        check_can_shard(model)
        units = find_units(model, self.units)
        model = self.convert_model(model)
        device = get_device()
        for module in model.modules():
            if isinstance(module, BaseDataPreprocessor):
                module.to(device)
        mesh = init_device_mesh(device, (self.world_size,))
        policy = MixedPrecisionPolicy()
        if self.param_dtype is not None:
            policy = MixedPrecisionPolicy(self.param_dtype, torch.float32)
        for unit in units:
            fully_shard(
                unit,
                mesh=mesh,
                reshard_after_forward=self.reshard_after_forward,
                mp_policy=policy,
            )
        fully_shard(model, mesh=mesh)
        gathered: list[Any] = [*units, model]
        for unit in gathered:
            # gloo knows no mean.
            unit.set_force_sum_reduction_for_comms(device == 'cpu')
        model.register_forward_pre_hook(
            GatherForEvaluation(units, self.reshard_after_forward)
        )
        return model

    def model_state_dict(self) -> Any:
        """Return the weights, whole, on process 0; elsewhere nothing."""
        state = self.model.state_dict()
        gathered = OrderedDict(gather(state, is_main_process()))
        # Versions of modules, as any state dict carries them.
        gathered._metadata = getattr(  # type: ignore[attr-defined]
            state, '_metadata', OrderedDict()
        )
        return gathered

    def optim_state_dict(self) -> Any:
        """Return the optimizer's state, whole, on process 0."""
        return gather(super().optim_state_dict(), is_main_process())

    def save_checkpoint(
        self,
        filename: str,
        *,
        save_optimizer: bool = True,
        save_param_scheduler: bool = True,
        extra_ckpt: dict[str, Any] | None = None,
        callback: Callable[[dict[str, Any]], None] | None = None,
    ) -> None:
        """Gather what a file holds and write it from process 0."""
        checkpoint: dict[str, Any] = dict(state_dict=self.model_state_dict())
        if save_optimizer and hasattr(self, 'optim_wrapper'):
            checkpoint['optimizer'] = self.optim_state_dict()
        if save_param_scheduler and hasattr(self, 'param_schedulers'):
            checkpoint['param_schedulers'] = self.scheduler_state_dict()
        if is_main_process():
            checkpoint.update(describe_run(extra_ckpt, self.seed))
            if callback is not None:
                callback(checkpoint)
            write_checkpoint(checkpoint, filename)
        barrier()

    def load_model_state_dict(
        self,
        state_dict: dict[str, Any],
        *,
        strict: bool = False,
        revise_keys: list[tuple[str, str]] | None = None,
    ) -> None:
        """Load whole weights, each process its part."""
        own = self.model.state_dict()
        revised = OrderedDict()
        for key, value in state_dict.items():
            for pattern, replacement in revise_keys or [(r'^module\.', '')]:
                key = re.sub(pattern, replacement, key)
            if isinstance(value, Tensor) and key in own:
                value = shard_like(value, own[key])
            revised[key] = value
        super().load_model_state_dict(revised, strict=strict)

    def load_optim_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load the whole state of an optimizer, each process its part."""
        groups = self.optim_wrapper.optimizer.param_groups
        parameters = chain.from_iterable(group['params'] for group in groups)
        names = chain.from_iterable(
            group['params'] for group in state_dict['param_groups']
        )
        state = dict(state_dict['state'])
        # Groups of other sizes are the optimizer's to refuse.
        for name, parameter in zip(names, parameters, strict=False):
            state[name] = {
                key: shard_like(value, parameter)
                if isinstance(value, Tensor)
                else value
                for key, value in state.get(name, {}).items()
            }
        super().load_optim_state_dict({**state_dict, 'state': state})

    def resume(self, filename: str, **options: Any) -> dict[str, Any]:
        """Go on from a checkpoint, read into the memory of the machine."""
        options['map_location'] = 'cpu'
        resumed: dict[str, Any] = super().resume(filename, **options)
        return resumed
