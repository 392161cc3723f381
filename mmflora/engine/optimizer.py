"""The optimizer wrapper constructor for frozen bases with adapters."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from mmengine.logging import print_log
from mmengine.model import is_model_wrapper
from mmengine.optim import DefaultOptimWrapperConstructor, OptimWrapper
from mmengine.registry import OPTIM_WRAPPERS, OPTIMIZERS
from torch import nn

from mmflora.checkpoint.roles import (
    NamedParameter,
    Role,
    frozen_by_owner,
    parameter_roles,
)
from mmflora.checkpoint.sharded import any_sharded
from mmflora.registry import OPTIM_WRAPPER_CONSTRUCTORS

from .layer_decay import layer_scales
from .multipliers import Multipliers
from .parameter_table import parameter_table

_GROUP_NAMES = {
    Role.CORE: 'cores',
    Role.ADAPTER: 'adapters',
    Role.TUNED: 'tuned',
    Role.NEW: 'heads',
    Role.HEAD: 'heads',
}


class _Settings(NamedTuple):
    """What the parameters of a group have in common."""

    role: str
    lr_mult: float
    decay_mult: float


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class PEFTOptimWrapperConstructor(DefaultOptimWrapperConstructor):
    """Trains adapters, tuned and new backbone parameters, neck and heads.

    The frozen base of a backbone never enters the optimizer, nor does a part
    that its owner froze as a whole (a teacher).  Parameters of the same
    learning rate and weight decay share one group, named after their role.
    A table of what trains is logged once.

    Weight decay pulls towards zero.  It skips parameters whose zero is not
    the frozen model: those that an adapter declares
    (``no_decay_parameters()``: scales, magnitudes, factors that do not start
    at zero), and biases and norms of the base that a tuning method trains,
    unless that is full fine-tuning.  A custom key with ``decay_mult``
    overrides this.

    Args:
        optim_wrapper_cfg: Configuration of the optimizer wrapper, with
            ``optimizer``.  Multipliers count for its own defaults, too, such
            as the weight decay of 0.01 that AdamW has if none is given.
        paramwise_cfg: Multipliers of learning rate and weight decay:

            - ``adapter_lr_mult``, ``adapter_decay_mult``: adapters;
            - ``core_lr_mult``, ``core_decay_mult``: their cores, by default
              as the adapters;
            - ``tuned_lr_mult``, ``tuned_decay_mult``: parameters of the base
              that a tuning method (BitFit, full fine-tuning) trains;
            - ``head_lr_mult``, ``head_decay_mult``: neck, heads and the
              backbone's new parameters;
            - ``norm_decay_mult``: weights and biases of norm layers;
            - ``bias_decay_mult``, ``bias_lr_mult``: other biases;
            - ``dwconv_decay_mult``, ``flat_decay_mult``,
              ``dcn_offset_lr_mult``: as MMEngine's constructor has them, but
              for adapters;
            - ``layer_decay``: learning rates in the backbone fall by this
              factor from layer to layer towards the input, see
              :func:`mmflora.engine.layer_decay.layer_scales`;
            - ``custom_keys``: maps a part of a parameter's name to
              ``lr_mult`` and ``decay_mult``, as MMEngine does; the longest
              matching key counts, and replaces all of the above but for
              ``layer_decay``;
            - ``allow_unmatched``: whether a custom key may match nothing, as
              in configs that serve several models.

    Raises:
        TypeError: If a multiplier is no number.
        ValueError: If ``paramwise_cfg`` has an unknown entry, a negative one
            or a custom key that matches nothing (see ``allow_unmatched``), or
            the model no backbone with a frozen base.
        RuntimeError: If a distributed wrapper was put around the model while
            parameters that must be frozen still required gradients (or the
            other way round): freezing them now would hang the processes.

    Example:
        >>> optim_wrapper = dict(
        ...     type='OptimWrapper',
        ...     constructor='mmflora.PEFTOptimWrapperConstructor',
        ...     optimizer=dict(type='AdamW', lr=1e-4, weight_decay=0.05),
        ...     paramwise_cfg=dict(norm_decay_mult=0.0, core_lr_mult=2.0),
        ... )
    """

    def __init__(
        self,
        optim_wrapper_cfg: dict[str, Any],
        paramwise_cfg: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(optim_wrapper_cfg, paramwise_cfg)
        self.base_lr = self.optimizer_cfg.get('lr')
        self.base_wd = self.optimizer_cfg.get('weight_decay')
        self.multipliers = Multipliers(self.paramwise_cfg)

    def __call__(self, model: nn.Module) -> OptimWrapper:
        """Build the optimizer wrapper over what trains.

        Args:
            model: The model, or a distributed wrapper around it.
        """
        wrapped = is_model_wrapper(model)
        inner: Any = model.module if wrapped else model
        items = list(parameter_roles(inner))
        if all(item.part is None for item in items):
            raise ValueError(
                'The model has no backbone with a frozen base. Build it with '
                "type='mmflora.FLoRAConvNeXt' or type='mmflora.PEFTBackbone', "
                'or train it with the default optimizer wrapper constructor.'
            )
        sharded = any_sharded(item.parameter for item in items)
        self._freeze(items, wrapped or sharded)
        trained = [item for item in items if item.trains]
        decay = self.paramwise_cfg.get('layer_decay')
        scales = {} if decay is None else layer_scales(inner, decay)
        groups = self._groups(trained, scales)
        self.multipliers.check_used(items)
        optimizer = OPTIMIZERS.build(
            dict(self.optimizer_cfg, params=[*groups.values()])
        )
        self._scale_defaults(optimizer, list(groups))
        config = dict(self.optim_wrapper_cfg)
        config.setdefault('type', 'OptimWrapper')
        print_log(f'What trains:\n{parameter_table(inner)}', logger='current')
        could_train = {i.part for i in items if i.role is not Role.BASE}
        for name in frozen_by_owner(inner):
            if name not in could_train:
                continue  # a part without adapters
            print_log(
                f"'{name}' is frozen as a whole, and stays so: nothing in it "
                'trains, its adapters neither.',
                logger='current',
            )
        return OPTIM_WRAPPERS.build(
            config, default_args=dict(optimizer=optimizer)
        )

    def _freeze(self, items: list[NamedParameter], wrapped: bool) -> None:
        """Apply the rule of what trains once more."""
        changed = [
            item
            for item in items
            if item.parameter.requires_grad != item.trains
        ]
        if wrapped and changed:
            names = ', '.join(item.name for item in changed[:5])
            raise RuntimeError(
                f'{len(changed)} parameters ({names}, …) require gradients '
                'otherwise than their role asks, and the model is already '
                'wrapped for several processes: changing that now would make '
                'them wait for each other forever. Freeze parameters when '
                'the model is built (mmflora does), and do not touch '
                '`requires_grad` of the backbone afterwards.'
            )
        for item in changed:
            item.parameter.requires_grad_(item.trains)

    def _groups(
        self,
        items: list[NamedParameter],
        scales: Mapping[nn.Parameter, float],
    ) -> dict[_Settings, dict[str, Any]]:
        """Sort parameters into groups of equal settings."""
        groups: dict[_Settings, dict[str, Any]] = {}
        for item in items:
            lr_mult, decay_mult = self.multipliers.of(item)
            lr_mult *= scales.get(item.parameter, 1.0)
            role = _GROUP_NAMES[item.role]
            key = _Settings(role, lr_mult, decay_mult)
            if key not in groups:
                groups[key] = dict(params=[], param_names=[], name=role)
                if self.base_lr is not None:
                    groups[key]['lr'] = self.base_lr * lr_mult
                if self.base_wd is not None:
                    groups[key]['weight_decay'] = self.base_wd * decay_mult
            groups[key]['params'].append(item.parameter)
            groups[key]['param_names'].append(item.name)
        ordered = sorted(groups, key=lambda key: str(tuple(key)))
        return {key: groups[key] for key in ordered}

    def _scale_defaults(
        self, optimizer: Any, settings: list[_Settings]
    ) -> None:
        """Multiply what the config leaves to the optimizer's own defaults."""
        for group, own in zip(optimizer.param_groups, settings, strict=True):
            for name, given, multiplier in (
                ('lr', self.base_lr, own.lr_mult),
                ('weight_decay', self.base_wd, own.decay_mult),
            ):
                if given is None and isinstance(group.get(name), float | int):
                    group[name] *= multiplier
