"""The competition of layers in SNELLA."""

from typing import Any

import torch
from torch import Tensor

from mmflora.adapters import SNELLA
from mmflora.adapters.settings import check_probability
from mmflora.registry import HOOKS

from .step_hook import StepHook, layers_adapted_by

_KEY = 'mmflora_snella'


@HOOKS.register_module()
class SNELLAHook(StepHook):
    """Gives each layer of SNELLA its share of the entries that survive.

    Before each step of the optimizer, the sensitivity |p ∂L/∂p| of each
    number of the factors is averaged over the steps, and so is its distance
    from the average.  A layer's importance is the mean of the product of the
    two, by factor, summed.  After the step the budget of all layers is
    divided by importance, and what a small layer cannot take goes to the
    others.  The budget falls from ``first`` to the adapter's ``sparsity`` as
    a cube of the time left.

    Shen et al. (2025), with the authors' release, whose defaults these are.
    It divides after each step; so does this.

    Args:
        first: The sparsity at the start, in [0, 1).
        warmup: The share of the steps before the budget falls, in [0, 1).
        final: The share at the end in which it stays, in [0, 1).
        beta: The weight of the past in the averages, in [0, 1).

    Raises:
        ValueError: If a setting is out of its range.

    Example:
        >>> custom_hooks = [dict(type='mmflora.SNELLAHook')]
    """

    method = 'SNELLA'

    def __init__(
        self,
        first: float = 0.01,
        warmup: float = 0.0,
        final: float = 0.0,
        beta: float = 0.85,
    ) -> None:
        super().__init__()
        kind = type(self).__name__
        self.first = check_probability(kind, 'first', first)
        self.warmup = check_probability(kind, 'warmup', warmup)
        self.final = check_probability(kind, 'final', final)
        self.beta = check_probability(kind, 'beta', beta)
        if warmup + final >= 1:
            raise ValueError(
                f'{kind}: warmup={warmup} and final={final} leave no step in '
                'which the budget falls; their sum is below 1.'
            )
        self.steps, self.step = 1, 0
        self.adapters: dict[str, SNELLA] = {}
        self.averages: dict[str, tuple[Tensor, Tensor]] = {}
        self._resumed: dict[str, Any] | None = None

    def before_train(self, runner: Any) -> None:
        """Find the adapters, and watch the optimizer.

        Raises:
            ValueError: If no layer has such an adapter, if the model has
                several optimizers, or is spread over several processes.
        """
        self.steps = self.watch(runner)
        layers = layers_adapted_by(
            'SNELLA',
            lambda adapter: isinstance(adapter, SNELLA),
            runner,
            self,
            "Set adapter=dict(type='SNELLA')",
        )
        self.adapters = {name: layer.adapter for name, layer in layers.items()}
        if self._resumed is not None:
            self.load(self._resumed)
        self._resumed = None
        if not self.step:
            self._set(dict.fromkeys(self.adapters, 1 - self.first))

    @torch.no_grad()
    def before_step(self) -> None:
        """Average the sensitivities of this step."""
        for name, adapter in self.adapters.items():
            for side in ('left', 'right'):
                factor = getattr(adapter, side)
                if factor.grad is None:
                    continue
                key, beta = f'{name}.{side}', self.beta
                found = (factor * factor.grad).abs().nan_to_num()
                zero = torch.zeros_like(found)
                mean, distance = self.averages.get(key, (zero, zero))
                mean = beta * mean + (1 - beta) * found
                apart = (found - mean).abs()
                distance = beta * distance + (1 - beta) * apart
                self.averages[key] = mean, distance

    def after_step(self) -> None:
        """Divide the budget of this step."""
        self.step += 1
        if self.step > self.warmup * self.steps:
            self._set(divided(self._scores(), self._sizes(), self.budget()))

    def budget(self) -> float:
        """Return how many entries of all layers survive now."""
        start, end = self.warmup, 1 - self.final
        left = min(max((end - self.step / self.steps) / (end - start), 0), 1)
        budget = 0.0
        for name, size in self._sizes().items():
            last = 1 - self.adapters[name].sparsity
            budget += size * (last + (1 - self.first - last) * left**3)
        return budget

    def _sizes(self) -> dict[str, int]:
        return {
            name: adapter.weight_shape.numel()
            for name, adapter in self.adapters.items()
        }

    def _scores(self) -> dict[str, float]:
        scores = dict.fromkeys(self.adapters, 0.0)
        for key, (mean, distance) in self.averages.items():
            name = key.rpartition('.')[0]
            scores[name] += float((mean * distance).mean())
        return scores

    def _set(self, shares: dict[str, float]) -> None:
        for name, share in shares.items():
            self.adapters[name].zeros.fill_(min(max(1 - share, 0.0), 1.0))

    def before_save_checkpoint(self, runner: Any, checkpoint: dict) -> None:
        """Save the averages: a resumed run goes on with them."""
        if self.adapters:
            checkpoint[_KEY] = dict(
                step=self.step,
                averages={
                    key: list(two) for key, two in self.averages.items()
                },
            )

    def after_load_checkpoint(self, runner: Any, checkpoint: dict) -> None:
        """Keep what a resumed run needs until it starts."""
        if runner._resume:
            self._resumed = checkpoint.get(_KEY)

    def load(self, state: dict[str, Any]) -> None:
        """Go on where a checkpoint was written."""
        self.step = state['step']
        for key, (mean, distance) in state['averages'].items():
            name = key.rpartition('.')[0]
            device = self.adapters[name].left.device
            self.averages[key] = mean.to(device), distance.to(device)


def divided(
    scores: dict[str, float], sizes: dict[str, int], budget: float
) -> dict[str, float]:
    """Divide a budget of entries among layers, in proportion to scores.

    A layer takes at most its size; the rest goes to the others, again in
    proportion.  Where no score is positive, sizes count.

    Returns:
        The share of its entries that each layer keeps.
    """
    given = dict.fromkeys(sizes, 0.0)
    open_layers = set(sizes)
    left = min(budget, float(sum(sizes.values())))
    while open_layers and left > 1e-6:
        weights = {name: max(scores[name], 0.0) for name in open_layers}
        if not sum(weights.values()):
            weights = {name: float(sizes[name]) for name in open_layers}
        whole = sum(weights.values())
        rest = 0.0
        for name in sorted(open_layers):
            wanted = given[name] + left * weights[name] / whole
            given[name] = min(wanted, float(sizes[name]))
            rest += wanted - given[name]
        open_layers = {n for n in open_layers if given[n] < sizes[n]}
        left = rest
    return {name: given[name] / size for name, size in sizes.items()}
