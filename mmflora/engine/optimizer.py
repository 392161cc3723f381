"""The optimizer wrapper constructor for frozen bases with adapters."""

from collections.abc import Mapping
from typing import Any

from mmengine.logging import print_log
from mmengine.model import is_model_wrapper
from mmengine.optim import DefaultOptimWrapperConstructor, OptimWrapper
from mmengine.registry import OPTIM_WRAPPERS, OPTIMIZERS
from torch import nn

from mmflora.adapters import is_norm
from mmflora.checkpoint.sharded import any_sharded
from mmflora.registry import OPTIM_WRAPPER_CONSTRUCTORS

from .layer_decay import layer_scales
from .parameter_table import parameter_table
from .roles import NamedParameter, Role, parameter_roles

_GROUP_NAMES = {
    Role.CORE: 'cores',
    Role.ADAPTER: 'adapters',
    Role.TUNED: 'tuned',
    Role.NEW: 'heads',
    Role.HEAD: 'heads',
}
_ROLE_PREFIX = {
    Role.CORE: 'core',
    Role.ADAPTER: 'adapter',
    Role.TUNED: 'tuned',
    Role.NEW: 'head',
    Role.HEAD: 'head',
}


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class PEFTOptimWrapperConstructor(DefaultOptimWrapperConstructor):
    """Trains adapters, tuned and new backbone parameters, neck and heads.

    The frozen base of a backbone never enters the optimizer.  Parameters of
    the same learning rate and weight decay share one group, named after
    their role.  A table of what trains is logged once.

    Args:
        optim_wrapper_cfg: Configuration of the optimizer wrapper, with
            ``optimizer``.
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
            - ``layer_decay``: learning rates in the backbone fall by this
              factor from layer to layer towards the input, see
              :func:`mmflora.engine.layer_decay.layer_scales`;
            - ``custom_keys``: maps a part of a parameter's name to
              ``lr_mult`` and ``decay_mult``, as MMEngine does; the longest
              matching key counts, and replaces all of the above but for
              ``layer_decay``.

    Raises:
        ValueError: If ``paramwise_cfg`` has an unknown entry, or the model no
            backbone with a frozen base.
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

    allowed = (
        'adapter_lr_mult',
        'adapter_decay_mult',
        'core_lr_mult',
        'core_decay_mult',
        'tuned_lr_mult',
        'tuned_decay_mult',
        'head_lr_mult',
        'head_decay_mult',
        'norm_decay_mult',
        'bias_decay_mult',
        'bias_lr_mult',
        'layer_decay',
        'custom_keys',
    )

    def __init__(
        self,
        optim_wrapper_cfg: dict[str, Any],
        paramwise_cfg: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(optim_wrapper_cfg, paramwise_cfg)
        self.base_lr = self.optimizer_cfg.get('lr')
        self.base_wd = self.optimizer_cfg.get('weight_decay')
        unknown = sorted(set(self.paramwise_cfg) - set(self.allowed))
        if unknown:
            raise ValueError(
                'PEFTOptimWrapperConstructor: unknown entries in '
                f'`paramwise_cfg`: {", ".join(unknown)}. Allowed are '
                f'{", ".join(self.allowed)}.'
            )

    def __call__(self, model: nn.Module) -> OptimWrapper:
        """Build the optimizer wrapper over what trains.

        Args:
            model: The model, or a distributed wrapper around it.
        """
        wrapped = is_model_wrapper(model)
        inner: Any = model.module if wrapped else model
        items = list(parameter_roles(inner))
        sharded = any_sharded(item.parameter for item in items)
        self._freeze(items, wrapped or sharded)
        trained = [item for item in items if item.role.trains]
        groups = self._groups(trained, self._layer_scales(inner))
        optimizer = OPTIMIZERS.build(dict(self.optimizer_cfg, params=groups))
        config = dict(self.optim_wrapper_cfg)
        config.setdefault('type', 'OptimWrapper')
        print_log(f'What trains:\n{parameter_table(inner)}', logger='current')
        return OPTIM_WRAPPERS.build(
            config, default_args=dict(optimizer=optimizer)
        )

    def _freeze(self, items: list[NamedParameter], wrapped: bool) -> None:
        """Apply the rule of what trains once more."""
        changed = [
            item
            for item in items
            if item.role is not Role.HEAD
            and item.parameter.requires_grad != item.role.trains
        ]
        if wrapped and changed:
            names = ', '.join(item.name for item in changed[:5])
            raise RuntimeError(
                f'{len(changed)} parameters ({names}, …) require gradients '
                'otherwise than their role asks, and the model is already '
                'wrapped for several processes: changing that now would make '
                'them wait for each other for ever. Freeze parameters when '
                'the model is built (mmflora does), and do not touch '
                '`requires_grad` of the backbone afterwards.'
            )
        for item in changed:
            item.parameter.requires_grad_(item.role.trains)

    def _layer_scales(self, model: nn.Module) -> dict[nn.Parameter, float]:
        decay = self.paramwise_cfg.get('layer_decay')
        return {} if decay is None else layer_scales(model, decay)

    def _groups(
        self,
        items: list[NamedParameter],
        scales: Mapping[nn.Parameter, float],
    ) -> list[dict[str, Any]]:
        """Sort parameters into groups of equal settings."""
        groups: dict[tuple[Any, ...], dict[str, Any]] = {}
        for item in items:
            if not item.parameter.requires_grad:
                continue  # a head's own decision
            lr_mult, decay_mult = self._multipliers(item)
            lr_mult *= scales.get(item.parameter, 1.0)
            role = _GROUP_NAMES[item.role]
            key = (role, lr_mult, decay_mult)
            if key not in groups:
                groups[key] = {'params': [], 'name': role}
                if self.base_lr is not None:
                    groups[key]['lr'] = self.base_lr * lr_mult
                if self.base_wd is not None:
                    groups[key]['weight_decay'] = self.base_wd * decay_mult
            groups[key]['params'].append(item.parameter)
        ordered = sorted(groups.items(), key=lambda entry: str(entry[0]))
        return [group for _, group in ordered]

    def _multipliers(self, item: NamedParameter) -> tuple[float, float]:
        """Return multipliers of learning rate and weight decay."""
        options = self.paramwise_cfg
        custom: Mapping[str, Any] = options.get('custom_keys', {})
        # MMEngine's order: alphabetical, the longest first.
        for key in sorted(sorted(custom), key=len, reverse=True):
            if key in item.name:
                chosen = custom[key]
                return chosen.get('lr_mult', 1.0), chosen.get(
                    'decay_mult', 1.0
                )
        lr_mult = self._role_multiplier(item.role, 'lr_mult')
        decay_mult = self._role_multiplier(item.role, 'decay_mult')
        if item.role in (Role.CORE, Role.ADAPTER):
            return lr_mult, decay_mult
        if is_norm(item.module):
            return lr_mult, decay_mult * options.get('norm_decay_mult', 1.0)
        if item.name.endswith('bias') and item.parameter.dim() == 1:
            lr_mult *= options.get('bias_lr_mult', 1.0)
            decay_mult *= options.get('bias_decay_mult', 1.0)
        return lr_mult, decay_mult

    def _role_multiplier(self, role: Role, kind: str) -> float:
        prefix = _ROLE_PREFIX[role]
        default = 1.0
        if prefix == 'core':
            default = self.paramwise_cfg.get(f'adapter_{kind}', 1.0)
        return self.paramwise_cfg.get(f'{prefix}_{kind}', default)
