"""Activations that are rebuilt in the backward pass instead of being kept.

An adapter needs the input of its layer to compute its gradients.  That input
often is the output of an element-wise layer (a norm, a GELU) whose own input
is kept anyway.  Such layers leave a recipe on their output.  A layer that
needs the output in the backward pass keeps the recipe's leaves, which cost no
more memory, and rebuilds it.  Matrix products and convolutions are never
repeated.

Nothing here hooks into autograd: leaves go through ``save_for_backward``, so
that activation checkpointing, offloading and DDP see ordinary saved tensors.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

_ATTRIBUTE = '_mmflora_recipe'


class Rebuild:
    """The part of a recipe without tensors: steps, and how they are nested.

    Several backward passes may need the same activation.  The first one
    rebuilds it, the last one drops it.

    Args:
        step: Computes the activation from its arguments.
        children: Per argument the rebuild of it, or ``None`` if it is a leaf.
    """

    def __init__(
        self,
        step: Callable[..., Tensor],
        children: Sequence['Rebuild | None'],
    ) -> None:
        self.step = step
        self.children = tuple(children)
        self.leaf_count: int = sum(
            1 if child is None else child.leaf_count for child in children
        )
        self._users = 0
        self._waiting = 0
        self._value: Tensor | None = None

    def retain(self) -> None:
        """Announce one more call of the backward pass."""
        if not self._users:
            for child in self.children:
                if child is not None:
                    child.retain()
        self._users += 1
        self._waiting = self._users

    def __call__(self, leaves: Sequence[Tensor]) -> Tensor:
        """Return the activation.

        Args:
            leaves: The ``leaf_count`` leaves, in order.
        """
        value = self._value
        if value is None:
            arguments, start = [], 0
            for child in self.children:
                stop = start + (1 if child is None else child.leaf_count)
                part = leaves[start:stop]
                arguments.append(part[0] if child is None else child(part))
                start = stop
            with torch.no_grad():
                value = self.step(*arguments)
        self._waiting -= 1
        self._value = value if self._waiting > 0 else None
        if self._waiting <= 0:  # the graph may be walked once more
            self._waiting = self._users
        return value


class Recipe:
    """How to rebuild one activation, and from which tensors.

    Args:
        rebuild: The steps.
        leaves: The tensors that they start from.
        version: How often the activation had been changed in place.  If it,
            or a leaf, is changed again, the recipe no longer gives it.
    """

    __slots__ = ('leaf_versions', 'leaves', 'rebuild', 'version')

    def __init__(
        self, rebuild: Rebuild, leaves: list[Tensor], version: int
    ) -> None:
        self.rebuild = rebuild
        self.leaves = leaves
        self.leaf_versions = [leaf._version for leaf in leaves]
        self.version = version

    def holds(self, activation: Tensor) -> bool:
        """Return whether neither the activation nor a leaf has changed."""
        return self.version == activation._version and all(
            version == leaf._version
            for version, leaf in zip(
                self.leaf_versions, self.leaves, strict=True
            )
        )


def leave_recipe(
    output: Tensor, step: Callable[..., Tensor], sources: Sequence[Tensor]
) -> None:
    """Note on a tensor how it was computed.

    Args:
        output: What ``step(*sources)`` has returned.
        step: A pure function; it must not hold tensors that are computed in
            the forward pass.
        sources: Its arguments, which must be kept for the backward pass in
            any case, or have a recipe themselves.
    """
    if torch.compiler.is_compiling() or not torch.is_grad_enabled():
        return
    children: list[Rebuild | None] = []
    leaves: list[Tensor] = []
    for source in sources:
        recipe = recipe_of(source)
        children.append(None if recipe is None else recipe.rebuild)
        leaves.extend([source] if recipe is None else recipe.leaves)
    if any(leaf.is_inference() for leaf in leaves):
        return  # such tensors cannot be saved for backward
    recipe = Recipe(Rebuild(step, children), leaves, output._version)
    setattr(output, _ATTRIBUTE, recipe)


def recipe_of(tensor: Tensor) -> Recipe | None:
    """Return the recipe of a tensor, ``None`` if it has none that holds."""
    recipe: Recipe | None = getattr(tensor, _ATTRIBUTE, None)
    if recipe is None:
        return _recipe_of_view(tensor)
    return recipe if recipe.holds(tensor) else None


def _recipe_of_view(tensor: Tensor) -> Recipe | None:
    """Return the recipe of a view, such as a permuted activation."""
    base = tensor._base
    whole = None if base is None else recipe_of(base)
    if base is None or whole is None or tensor.dtype != base.dtype:
        return None
    view = partial(
        _view_again,
        base_stride=base.stride(),
        size=tensor.size(),
        stride=tensor.stride(),
        offset=int(tensor.storage_offset()),
    )
    rebuild = Rebuild(view, [whole.rebuild])
    recipe = Recipe(rebuild, whole.leaves, tensor._version)
    setattr(tensor, _ATTRIBUTE, recipe)
    return recipe


def _view_again(
    base: Tensor,
    base_stride: tuple[int, ...],
    size: tuple[int, ...],
    stride: tuple[int, ...],
    offset: int,
) -> Tensor:
    if base.stride() != base_stride:
        laid_out = torch.empty_strided(
            base.shape, base_stride, dtype=base.dtype, device=base.device
        )
        base = laid_out.copy_(base)
    return base.as_strided(size, stride, offset)


def keep(ctx: Any, activation: Tensor, *others: Tensor | None) -> None:
    """Save an activation, or its recipe, and other tensors for backward."""
    recipe = None
    if not torch.compiler.is_compiling():
        recipe = recipe_of(activation)
    ctx.rebuild = None
    if recipe is None:
        ctx.save_for_backward(*others, activation)
        return
    recipe.rebuild.retain()
    ctx.rebuild = recipe.rebuild
    ctx.save_for_backward(*others, *recipe.leaves)


def kept(ctx: Any, others: int) -> tuple[Any, ...]:
    """Return what :func:`keep` saved: the activation, then the others."""
    saved = ctx.saved_tensors
    if ctx.rebuild is None:
        return saved[others], *saved[:others]
    return ctx.rebuild(saved[others:]), *saved[:others]
