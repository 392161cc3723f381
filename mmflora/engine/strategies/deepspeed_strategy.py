"""DeepSpeed's ZeRO within MMEngine's FlexibleRunner, for frozen bases.

MMEngine's strategy imports optimizers that DeepSpeed no longer has, takes no
clipping of gradients from the config, and writes no checkpoint that another
runner could read.
"""

import os.path as osp
from collections import OrderedDict
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import Any

from mmengine._strategy import DeepSpeedStrategy as _DeepSpeedStrategy
from mmengine._strategy import deepspeed as mmengine_deepspeed
from mmengine._strategy.single_device import SingleDeviceStrategy
from mmengine.device import get_device
from mmengine.dist import barrier, is_main_process
from mmengine.registry import OPTIMIZERS
from torch import nn

from mmflora.adapters.quantized_base import refuse_quantized
from mmflora.files.stored_tensors import FOLDER_CHECKPOINT
from mmflora.registry import STRATEGIES

from .checkpoint_file import describe_run, write_checkpoint


@STRATEGIES.register_module()
class DeepSpeedStrategy(_DeepSpeedStrategy):
    """Trains by DeepSpeed, frozen parameters left out of all files.

    Gradient clipping and accumulation are those of ``optim_wrapper``, as with
    the ordinary runner.  A checkpoint is a folder: DeepSpeed's files, one
    set for each number of processes, from which a run resumes, and
    ``weights.pth``, the ordinary checkpoint (adapters and heads, or the
    whole model), which tests, merging and ``load_from`` of other engines
    read.  A test uses no DeepSpeed: each process holds the whole model.

    Args:
        exclude_frozen_parameters: Leave frozen parameters out of DeepSpeed's
            files.
        **kwargs: As for MMEngine's strategy: ``zero_optimization``,
            ``config`` and so on.

    Raises:
        ImportError: If DeepSpeed is not installed.
        ValueError: If it cannot train such a model or with such settings.

    Example:
        >>> runner_type = 'FlexibleRunner'
        >>> strategy = dict(
        ...     type='mmflora.DeepSpeedStrategy',
        ...     zero_optimization=dict(stage=2),
        ... )
    """

    def __init__(
        self, *, exclude_frozen_parameters: bool = True, **kwargs: Any
    ) -> None:
        if find_spec('deepspeed') is None:
            raise ImportError(
                'DeepSpeedStrategy needs the package deepspeed: pip install '
                '-r requirements/deepspeed.txt -c requirements/constraints.txt'
            )
        mmengine_deepspeed.register_deepspeed_optimizers = register_optimizers
        super().__init__(
            exclude_frozen_parameters=exclude_frozen_parameters, **kwargs
        )
        self.config.setdefault('zero_allow_untested_optimizer', True)

    def prepare(
        self,
        model: Any,
        *,
        optim_wrapper: Any = None,
        dispatch_kwargs: dict[str, Any] | None = None,
        **options: Any,
    ) -> Any:
        """Build what trains; for a test, the model as it is."""
        own = dict(dispatch_kwargs or {})
        if optim_wrapper is None:
            return SingleDeviceStrategy.prepare(
                self, model, dispatch_kwargs=own, **options
            )
        self.config.setdefault(
            'train_micro_batch_size_per_gpu',
            own.get('train_micro_batch_size_per_gpu', 1),
        )
        return super().prepare(
            model, optim_wrapper=optim_wrapper, dispatch_kwargs=own, **options
        )

    def convert_model(self, model: nn.Module) -> nn.Module:
        """Leave the model as it is."""
        return model

    def build_optim_wrapper(
        self, optim_wrapper: Any, model: nn.Module | None = None
    ) -> Any:
        """Hand clipping and accumulation over to DeepSpeed."""
        if isinstance(optim_wrapper, Mapping):
            optim_wrapper = self._take_over(dict(optim_wrapper))
        return super().build_optim_wrapper(optim_wrapper, model)

    def _take_over(self, settings: dict[str, Any]) -> dict[str, Any]:
        kind = settings.get('type', 'OptimWrapper')
        if kind not in ('OptimWrapper', 'DeepSpeedOptimWrapper'):
            raise ValueError(
                f"DeepSpeedStrategy: optim_wrapper is of type '{kind}'. Use "
                "'OptimWrapper'; precision is the backbone's `autocast`."
            )
        clip = dict(settings.pop('clip_grad', None) or {})
        if clip:
            if set(clip) - {'max_norm', 'norm_type'} or (
                clip.get('norm_type', 2) != 2
            ):
                raise ValueError(
                    f'DeepSpeedStrategy: clip_grad is {clip}, but DeepSpeed '
                    'clips the 2-norm alone. Set clip_grad=dict(max_norm=…).'
                )
            self.config.setdefault('gradient_clipping', clip['max_norm'])
        steps = settings.pop('accumulative_counts', 1)
        if steps != 1:
            self.config['gradient_accumulation_steps'] = steps
        settings['type'] = 'DeepSpeedOptimWrapper'
        return settings

    def _wrap_model(self, model: nn.Module) -> nn.Module:
        if not hasattr(self, 'optim_wrapper'):
            return model.to(get_device())
        check_types(model)
        return super()._wrap_model(model)

    def save_checkpoint(
        self,
        filename: str,
        *,
        save_optimizer: bool = True,
        save_param_scheduler: bool = True,
        extra_ckpt: dict[str, Any] | None = None,
        callback: Callable[[dict[str, Any]], None] | None = None,
    ) -> None:
        """Write DeepSpeed's folder, and the ordinary checkpoint in it."""
        extra = describe_run(extra_ckpt, self.seed)
        weights = gathered_weights(self.model.module, is_main_process())
        target = filename
        if save_optimizer:
            super().save_checkpoint(
                filename,
                save_param_scheduler=save_param_scheduler,
                extra_ckpt=dict(extra),
            )
            target = osp.join(filename, FOLDER_CHECKPOINT)
        if is_main_process():
            checkpoint = dict(extra, state_dict=weights)
            if callback is not None:
                callback(checkpoint)
            write_checkpoint(checkpoint, target)
        barrier()

    def load_checkpoint(self, filename: str, **options: Any) -> dict[str, Any]:
        """Load an ordinary checkpoint, or the one in a folder, for a test."""
        if hasattr(self, 'optim_wrapper'):
            raise ValueError(
                f"DeepSpeedStrategy: load_from is '{filename}', but DeepSpeed "
                'has distributed the parameters when it would be loaded. '
                'Name a base in `init_cfg` of the backbone, or train with '
                "strategy.type='mmflora.FSDPStrategy'."
            )
        if osp.isdir(filename):
            filename = osp.join(filename, FOLDER_CHECKPOINT)
        loaded: dict[str, Any] = SingleDeviceStrategy.load_checkpoint(
            self, filename, **options
        )
        return loaded

    def resume(self, filename: str, **options: Any) -> dict[str, Any]:
        """Go on from a folder that DeepSpeed wrote."""
        if not osp.isdir(filename):
            raise ValueError(
                f"DeepSpeedStrategy: '{filename}' is no folder that DeepSpeed "
                'wrote, so it holds no state of its optimizer. Resume with '
                'the engine that wrote it.'
            )
        resumed: dict[str, Any] = super().resume(filename, **options)
        return resumed


def register_optimizers() -> list[str]:
    """Register those of DeepSpeed's optimizers that there are.

    Returns:
        Their names.
    """
    from deepspeed.ops import adam, lamb

    found = {
        name: getattr(package, name)
        for package, name in (
            (adam, 'DeepSpeedCPUAdam'),
            (adam, 'FusedAdam'),
            (lamb, 'FusedLamb'),
        )
        if hasattr(package, name)
    }
    for name, optimizer in found.items():
        OPTIMIZERS.register_module(name=name, module=optimizer, force=True)
    return list(found)


def check_types(model: nn.Module) -> None:
    """Refuse a model whose parameters are of several types.

    Raises:
        ValueError: If there are several.
    """
    refuse_quantized(model, 'DeepSpeed')
    types = sorted({str(p.dtype) for p in model.parameters()})
    if len(types) > 1:
        raise ValueError(
            'DeepSpeed takes parameters of one type alone, but the model has '
            f'{", ".join(types)}. Keep the base in float32 too '
            '(model.backbone.dtype=None), or train with '
            "strategy.type='mmflora.FSDPStrategy'."
        )


def gathered_weights(model: nn.Module, keep: bool) -> Any:
    """Return a state dict with whole tensors in memory.

    With ZeRO's stage 3 each parameter is gathered for itself; all processes
    must call it together.

    Args:
        model: The model, not wrapped.
        keep: Whether this process is to have the tensors.
    """
    from deepspeed.runtime.zero import GatheredParameters

    state = model.state_dict()
    parameters: dict[str, Any] = dict(model.named_parameters())
    weights = OrderedDict()
    for key, value in state.items():
        parameter: Any = parameters.get(key)
        if hasattr(parameter, 'ds_id'):
            with GatheredParameters([parameter]):
                weights[key] = parameter.detach().cpu().clone()
        else:
            weights[key] = value.detach().cpu()
        if not keep:
            del weights[key]
    weights._metadata = getattr(  # type: ignore[attr-defined]
        state, '_metadata', OrderedDict()
    )
    return weights
