"""What hooks share that act around the steps of the optimizer."""

from collections.abc import Callable
from typing import Any, ClassVar

from mmengine.hooks import Hook
from mmengine.optim import OptimWrapperDict
from torch.utils.hooks import RemovableHandle

from mmflora.adapters import adapted_layers
from mmflora.checkpoint.gaps import without_wrappers
from mmflora.checkpoint.sharded import any_sharded


class StepHook(Hook):
    """A hook that reads or changes parameters before or after each step.

    Attributes:
        method: The method that has the hook, for errors.
    """

    priority = 'NORMAL'
    method: ClassVar[str] = ''

    def __init__(self) -> None:
        self._handles: list[RemovableHandle] = []

    def watch(self, runner: Any) -> int:
        """Act around the optimizer's steps from now on.

        Returns:
            How many steps the training has.

        Raises:
            ValueError: If the model has several optimizers, or is spread over
                several processes.
        """
        check_whole(runner, self.method, type(self).__name__)
        wrapper = runner.optim_wrapper
        optimizer = wrapper.optimizer
        self._handles = [
            optimizer.register_step_pre_hook(lambda *_: self.before_step()),
            optimizer.register_step_post_hook(lambda *_: self.after_step()),
        ]
        return -(-runner.max_iters // wrapper._accumulative_counts)

    def after_train(self, runner: Any) -> None:
        """Leave the optimizer alone."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def before_step(self) -> None:
        """Act before a step, when all gradients are there."""

    def after_step(self) -> None:
        """Act after a step."""


def layers_adapted_by(
    method: str,
    is_of_method: Callable[[Any], bool],
    runner: Any,
    hook: Hook,
    remedy: str,
) -> dict[str, Any]:
    """Return the layers that a method adapts, by name.

    Args:
        method: The method, for the error.
        is_of_method: Whether an adapter is one of the method.
        runner: The runner.
        hook: What needs the layers.
        remedy: How to get some, for the error.

    Raises:
        ValueError: If there is none; says which adapters there are.
    """
    layers = adapted_layers(without_wrappers(runner.model))
    found = {
        name: layer
        for name, layer in layers.items()
        if is_of_method(layer.adapter)
    }
    if not found:
        kinds = {type(layer.adapter).__name__ for layer in layers.values()}
        there = ', '.join(sorted(kinds)) or 'no adapters'
        raise ValueError(
            f'{type(hook).__name__} found no layer adapted by {method}: this '
            f'model has {there}. {remedy}, or take the hook out of '
            'custom_hooks.'
        )
    return found


def check_whole(runner: Any, method: str, hook: str) -> None:
    """Check that one process has whole parameters, and one optimizer.

    Args:
        runner: The runner.
        method: What needs the parameters, for the error.
        hook: The hook, for the error.

    Raises:
        ValueError: If the model has several optimizers, or is spread over
            several processes.
    """
    if any_sharded(without_wrappers(runner.model).parameters()):
        raise ValueError(
            f'{method} needs whole parameters, but the model is '
            "spread over several processes. Train it with MMEngine's "
            'Runner (leave out runner_type and strategy), or use another '
            'adapter.'
        )
    if isinstance(runner.optim_wrapper, OptimWrapperDict):
        raise ValueError(
            f'{hook} follows the steps of one optimizer, '
            'but the runner has several. Use one, or another adapter.'
        )
