"""Notice adapters that never learn."""

from typing import Any

from mmengine.hooks import Hook
from torch.utils.hooks import RemovableHandle

from mmflora.checkpoint.gaps import without_wrappers
from mmflora.checkpoint.roles import Role, parameter_roles
from mmflora.registry import HOOKS


@HOOKS.register_module()
class AdapterGradientHook(Hook):
    """Checks that the first backward pass reaches every adapter.

    Adapters silently get no gradient where activation checkpointing is
    re-entrant behind a frozen stem, or where a module reads a layer's weight
    without calling the layer.

    Example:
        >>> custom_hooks = [dict(type='mmflora.AdapterGradientHook')]
    """

    priority = 'LOW'

    def __init__(self) -> None:
        self._waiting: set[str] = set()
        self._handles: list[RemovableHandle] = []
        self._checked = False

    def before_train(self, runner: Any) -> None:
        """Watch every parameter of every adapter that trains."""
        for item in parameter_roles(without_wrappers(runner.model)):
            if item.trains and item.role in (Role.CORE, Role.ADAPTER):
                self._watch(item.name, item.parameter)

    def after_train_iter(self, runner: Any, *_: Any, **__: Any) -> None:
        """Check once, after the first iteration.

        Raises:
            RuntimeError: If an adapter got no gradient; all are named.
        """
        if self._checked:
            return
        self._checked = True
        for handle in self._handles:
            handle.remove()
        if not self._waiting:
            return
        names = ', '.join(sorted(self._waiting)[:8])
        raise RuntimeError(
            f'{len(self._waiting)} parameters of adapters got no gradient in '
            f'the first iteration: {names}, … Either activation '
            'checkpointing is re-entrant (use `with_cp` of mmflora, or '
            'use_reentrant=False), or the layers are not called in the '
            'forward pass: leave them out with `exclude`.'
        )

    def _watch(self, name: str, parameter: Any) -> None:
        def reached(_: Any) -> None:
            self._waiting.discard(name)

        self._waiting.add(name)
        self._handles.append(
            parameter.register_post_accumulate_grad_hook(reached)
        )
