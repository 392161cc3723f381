"""The schedule of AdaLoRA's ranks."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

from mmflora.adapters.hf_peft import HFPEFT, load_peft
from mmflora.registry import HOOKS

from .step_hook import StepHook, layers_adapted_by

_KEY = 'mmflora_adalora'


@HOOKS.register_module()
class AdaLoRAHook(StepHook):
    """Drops AdaLoRA's least important ranks during training.

    After each step of the optimizer, peft's ``RankAllocator`` updates the
    importance of every rank from the gradients, and zeroes the least
    important ones, until ``target_r`` per layer are left on average.  Before
    each step, the gradient of AdaLoRA's orthogonality penalty is added, with
    the weight ``orth_reg_weight`` of the adapter; peft adds the penalty to
    the loss instead, where a clipping of the gradient sees it.

    The schedule (``tinit``, ``tfinal``, ``deltaT`` of the adapter) counts
    steps of the optimizer; its end is the end of the training.

    Zhang et al., "AdaLoRA: Adaptive Budget Allocation for Parameter-Efficient
    Fine-Tuning" (ICLR 2023), equations 4 and 8 to 12.

    Example:
        >>> custom_hooks = [dict(type='mmflora.AdaLoRAHook')]
    """

    method = 'AdaLoRA'

    def __init__(self) -> None:
        super().__init__()
        self._schedules: list[_Schedule] = []
        self._resumed: list[dict[str, Any]] | None = None

    def before_train(self, runner: Any) -> None:
        """Find the adapters, set the schedule's end, watch the optimizer.

        Raises:
            ValueError: If no layer has an AdaLoRA adapter, if the training is
                too short for the schedule, if the model has several
                optimizers, or if it is spread over several processes.
        """
        steps = self.watch(runner)
        layers = layers_adapted_by(
            'AdaLoRA',
            _is_adalora,
            runner,
            self,
            "Set adapter=dict(type='HFPEFT', peft_type='ADALORA')",
        )
        self._schedules = [
            _Schedule(group, steps) for group in _groups(layers)
        ]
        for schedule, state in zip(
            self._schedules, self._resumed or [], strict=False
        ):
            schedule.load(state)
        self._resumed = None

    def before_save_checkpoint(self, runner: Any, checkpoint: dict) -> None:
        """Save the importance of the ranks: a resumed run goes on with it."""
        if self._schedules:
            checkpoint[_KEY] = [item.state() for item in self._schedules]

    def after_load_checkpoint(self, runner: Any, checkpoint: dict) -> None:
        """Keep what a resumed run needs until it starts."""
        if runner._resume:
            self._resumed = checkpoint.get(_KEY)

    def before_step(self) -> None:
        """Add the penalty's gradient."""
        for schedule in self._schedules:
            schedule.add_penalty()

    def after_step(self) -> None:
        """Drop what the budget drops."""
        for schedule in self._schedules:
            schedule.allocate()


class _Named:
    """The adapters of some layers, as far as a ``RankAllocator`` looks."""

    def __init__(self, adapters: dict[str, HFPEFT]) -> None:
        self.adapters = adapters

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Yield the parameters with the layers' names before their own."""
        for name, adapter in self.adapters.items():
            for key, parameter in adapter.named_parameters():
                yield f'{name}.{key}', parameter


class _Schedule:
    """The ranks of layers with one configuration.

    Args:
        adapters: Their adapters by the layers' names.
        steps: How many steps the training has.
    """

    def __init__(self, adapters: dict[str, HFPEFT], steps: int) -> None:
        load_peft()
        from peft.tuners.adalora import RankAllocator

        self.named = _Named(adapters)
        self.config = next(iter(adapters.values())).config
        if self.config.tinit + self.config.tfinal >= steps:
            raise ValueError(
                f'AdaLoRA: tinit={self.config.tinit} and '
                f'tfinal={self.config.tfinal} leave no step of the {steps} '
                'of this training to drop ranks in. Decrease them, or train '
                'longer.'
            )
        if self.config.target_r >= self.config.init_r:
            raise ValueError(
                f'AdaLoRA: target_r={self.config.target_r} is not below '
                f'init_r={self.config.init_r}, so there is no rank to drop. '
                "Change one of them, or use peft_type='LORA'."
            )
        self.config.total_step = steps
        self.step = 0
        self.pattern: dict[str, list[bool]] | None = None
        self.allocator = RankAllocator(self.named, self.config, 'default')

    @torch.no_grad()
    def add_penalty(self) -> None:
        """Add the gradient of λ/n Σ ‖P Pᵀ − I‖ over all factors P.

        A is such a factor with ranks as rows, B's transpose is another; n is
        their number, and the norm Frobenius'.
        """
        factors = [
            (parameter, '.lora_B.' in name)
            for name, parameter in self.named.named_parameters()
            if '.lora_A.' in name or '.lora_B.' in name
        ]
        weight = self.config.orth_reg_weight / len(factors)
        for parameter, transposed in factors:
            if parameter.grad is None:
                continue
            rows = parameter.T if transposed else parameter
            excess = rows @ rows.T
            excess.diagonal().sub_(1)
            norm = excess.norm().clamp_min(torch.finfo(excess.dtype).tiny)
            gradient = (2 * weight / norm) * (excess @ rows)
            parameter.grad += gradient.T if transposed else gradient

    def allocate(self) -> None:
        """Update the importance of the ranks; drop what the budget drops."""
        last = self.config.total_step - self.config.tfinal
        if self.step > last:
            if self.pattern is not None:
                self.allocator.mask_using_rank_pattern(
                    self.named, self.pattern
                )
        else:
            _, pattern = self.allocator.update_and_allocate(
                self.named, self.step, force_mask=self.step == last
            )
            self.pattern = pattern or self.pattern
        if self.step == last:
            self.allocator.reset_ipt()
        self.step += 1

    def state(self) -> dict[str, Any]:
        """Return what a resumed run needs."""
        allocator = self.allocator
        return dict(
            step=self.step,
            pattern=self.pattern,
            ipt=allocator.ipt,
            exp_avg_ipt=allocator.exp_avg_ipt,
            exp_avg_unc=allocator.exp_avg_unc,
        )

    def load(self, state: dict[str, Any]) -> None:
        """Go on where :meth:`state` was taken."""
        device = {
            name: parameter.device
            for name, parameter in self.named.named_parameters()
        }
        self.step, self.pattern = state['step'], state['pattern']
        for key in ('ipt', 'exp_avg_ipt', 'exp_avg_unc'):
            values = {
                name: value.to(device[name])
                for name, value in state[key].items()
            }
            setattr(self.allocator, key, values)


def _is_adalora(adapter: Any) -> bool:
    return isinstance(adapter, HFPEFT) and adapter.peft_type == 'ADALORA'


def _groups(layers: Mapping[str, Any]) -> list[dict[str, HFPEFT]]:
    """Group the adapters of layers by their configuration."""
    groups: dict[int, dict[str, HFPEFT]] = {}
    for name, layer in layers.items():
        adapter = layer.adapter
        groups.setdefault(id(adapter.config), {})[name] = adapter
    return list(groups.values())
