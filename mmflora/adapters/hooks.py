"""Forward hooks of ours on modules that are not."""

from collections.abc import Callable
from typing import Any

from torch import nn


def drop_hook(module: nn.Module, hook: Callable[..., Any]) -> bool:
    """Take a hook off a module; return whether it had it.

    It may be one that runs before the forward pass, or behind it.
    """
    kinds: Any = (
        (module._forward_hooks, module._forward_hooks_with_kwargs),
        (module._forward_pre_hooks, module._forward_pre_hooks_with_kwargs),
    )
    found = False
    for hooks, with_kwargs in kinds:
        for key in [key for key, own in hooks.items() if own is hook]:
            del hooks[key]
            with_kwargs.pop(key, None)
            found = True
    return found
