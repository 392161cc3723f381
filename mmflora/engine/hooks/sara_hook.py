"""What SaRA does during training."""

from typing import Any

from mmengine.dist import broadcast

from mmflora.adapters import SaRA
from mmflora.registry import HOOKS

from .step_hook import StepHook, layers_adapted_by


@HOOKS.register_module()
class SaRAHook(StepHook):
    """Adds SaRA's penalty, and settles the entries that have become effective.

    Before each step of the optimizer, the gradient of λ times the nuclear norm
    of one layer's masked weight is added, of each layer in its turn; the
    authors' release takes one at random.  It costs the eigenvectors of this
    layer's smaller Gram matrix.  Once, the entries whose size exceeds the
    threshold are kept as they are, and those below go on.  Both are in the
    adapters' state: a resumed run goes on as it would have.

    Hu et al., "SaRA: High-Efficient Diffusion Model Fine-tuning with
    Progressive Sparse Low-Rank Adaptation" (ICLR 2025), section 4.

    Args:
        penalty: λ, by default that of the authors' example; 0 for none.
        settle_at: After which part of the training entries are settled; 1
            for never.

    Example:
        >>> custom_hooks = [dict(type='mmflora.SaRAHook')]

    Raises:
        ValueError: If λ is negative, or the part not in (0, 1].
    """

    method = 'SaRA'

    def __init__(self, penalty: float = 5e-4, settle_at: float = 0.5) -> None:
        if not 0 <= penalty < float('inf') or not 0 < settle_at <= 1:
            raise ValueError(
                'SaRAHook: `penalty` is a finite number from 0 on, and '
                '`settle_at` a part of the training in (0, 1], got '
                f'penalty={penalty!r}, settle_at={settle_at!r}.'
            )
        super().__init__()
        self.penalty, self.settle_at = penalty, settle_at
        self._layers: list[Any] = []
        self._turn = 0

    def before_train(self, runner: Any) -> None:
        """Find the adapters, and watch the optimizer.

        Raises:
            ValueError: If no layer has a SaRA adapter, the model has several
                optimizers, or it is spread over several processes.
        """
        layers = layers_adapted_by(
            'SaRA',
            lambda adapter: isinstance(adapter, SaRA),
            runner,
            self,
            "Set adapter=dict(type='SaRA')",
        )
        self._layers = list(layers.values())
        self.watch(runner)

    def before_train_iter(self, runner: Any, *_: Any, **__: Any) -> None:
        """Settle entries, once, and note whose turn it is."""
        self._turn = runner.iter // runner.optim_wrapper._accumulative_counts
        if runner.iter != max(1, int(self.settle_at * runner.max_iters)):
            return
        total = sum(layer.adapter.count for layer in self._layers)
        left = sum(layer.adapter.settle(layer) for layer in self._layers)
        runner.logger.info(
            f'SaRA: {total - left} of {total} entries have become effective '
            f'and stay as they are; {left} go on.'
        )

    def before_step(self) -> None:
        """Add the penalty's gradient to that of the layer whose turn it is."""
        if not self.penalty:
            return
        layer = self._layers[self._turn % len(self._layers)]
        gradient = layer.adapter.penalty_gradient(layer)
        broadcast(gradient)  # decompositions may differ in the last digit
        if layer.adapter.values.grad is not None:
            layer.adapter.values.grad.add_(gradient, alpha=self.penalty)
