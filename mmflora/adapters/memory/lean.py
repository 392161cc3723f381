"""Lean layers: element-wise outputs are rebuilt instead of being kept.

Norms and activations keep their input for their own gradient.  Lean, they
leave a recipe on their output, so that the adapted layer that follows keeps
no second tensor.  Per block of a ConvNeXt-V2, in units of the block's input,
ten tensors live after the forward pass of the frozen model:

=======================  ======  ======  =======  ====
output of                frozen  stored  default  lean
=======================  ======  ======  =======  ====
block before             1       1       1        1
depthwise convolution    1       1       1
norm                             1
expanding linear layer   4       4       4        4
GELU                     4       4       4
response norm                    4
sum                      10      15      10       5
=======================  ======  ======  =======  ====

"""

from typing import Any

import torch
from timm.layers import activations as timm_act
from timm.layers import norm as timm_norm
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from ..hooks import drop_hook
from ..layers import AdaptedConv
from .recompute import keep, kept, leave_recipe, recipe_of
from .response_norm import GlobalResponseNorm

LeanLayers = list[tuple[Any, type[nn.Module], bool]]

# Layers without state or randomness whose own gradient needs their input.  (A
# ReLU keeps its output, so a recipe would save nothing.)
_NORMS: tuple[type[nn.Module], ...] = (
    nn.LayerNorm,
    nn.RMSNorm,
    nn.GroupNorm,
    timm_norm.LayerNorm,
    timm_norm.LayerNorm2d,
    timm_norm.RmsNorm,
    timm_norm.RmsNorm2d,
)
_ACTIVATIONS: tuple[type[nn.Module], ...] = (
    nn.GELU,
    nn.SiLU,
    nn.Mish,
    timm_act.GELU,
    timm_act.GELUTanh,
)


def make_lean(model: nn.Module, norms_only: bool = False) -> int:
    """Let the element-wise layers of a model leave recipes, in place.

    Keys and results of the model stay as they are.  It may be called again.

    Args:
        model: The model, adapted before.
        norms_only: Rebuild the outputs of norms alone, which costs about as
            much as storing them.  Else activations and depthwise
            convolutions too, which cost a few per cent of a step.

    Returns:
        How many layers are lean.
    """
    count = 0
    for module in model.modules():
        kind = type(module)
        if kind in _LEAN_NORMS and not norms_only:
            module.__class__ = _LEAN_NORMS[kind]
        elif isinstance(module, GlobalResponseNorm) or (
            isinstance(module, AdaptedConv) and not norms_only
        ):
            drop_hook(module, _leave_recipe)  # of the time before its adapter
            module.lean = True
        elif _is_norm(module) or (_is_cheap(module) and not norms_only):
            _add_hook(module)
        elif kind not in _LEAN_NORMS.values():
            continue
        count += 1
    return count


def make_plain(model: nn.Module) -> LeanLayers:
    """Undo :func:`make_lean`, in place.

    Returns:
        The layers that were lean, for :func:`make_lean_again`.
    """
    found: LeanLayers = []
    for module in model.modules():
        kind = type(module)
        lean = kind in _STOCK_NORMS
        if lean:
            module.__class__ = _STOCK_NORMS[kind]
        if isinstance(module, (GlobalResponseNorm, AdaptedConv)):
            lean |= vars(module).pop('lean', False)
        hooked = drop_hook(module, _leave_recipe)
        if lean or hooked:
            found.append((module, kind, hooked))
    return found


def make_lean_again(layers: LeanLayers) -> None:
    """Make lean what :func:`make_plain` has made plain."""
    for module, kind, hooked in layers:
        if hooked:
            _add_hook(module)
        elif kind in _STOCK_NORMS:
            module.__class__ = kind
        else:
            module.lean = True


def _is_norm(module: nn.Module) -> bool:
    """Return whether a layer is a norm; a class of one's own may say so."""
    own: bool = getattr(type(module), 'rebuilt_by_adapters', False)
    return own or type(module) in _NORMS


def _is_cheap(module: nn.Module) -> bool:
    """Return whether a frozen layer is an activation or depthwise."""
    if isinstance(module, nn.Conv2d):
        depthwise = 1 < module.groups == module.in_channels
        frozen = not module.weight.requires_grad
        return depthwise and frozen and type(module) is nn.Conv2d
    return type(module) in _ACTIVATIONS


def _add_hook(module: nn.Module) -> None:
    inplace = getattr(module, 'inplace', False)
    if not inplace and _leave_recipe not in module._forward_hooks.values():
        module.register_forward_hook(_leave_recipe)


def _leave_recipe(module: nn.Module, inputs: Any, output: Tensor) -> None:
    if torch.is_grad_enabled() and not torch.compiler.is_compiling():
        if len(inputs) != 1:
            return  # called by keyword: hooks do not see the input
        (source,) = inputs
        leave_recipe(output, _Replay(module, source.device.type), [source])


class _Replay:
    """A module's forward pass, without hooks, under the first's autocast."""

    def __init__(self, module: nn.Module, device: str) -> None:
        self.module = module
        self.device = device
        self.known = torch.amp.is_autocast_available(device)
        if self.known:
            self.enabled = torch.is_autocast_enabled(device)
            self.dtype = torch.get_autocast_dtype(device)

    def __call__(self, inputs: Tensor) -> Tensor:
        if not self.known:
            return self._forward(inputs)
        with torch.autocast(self.device, self.dtype, self.enabled):
            return self._forward(inputs)

    def _forward(self, inputs: Tensor) -> Tensor:
        if isinstance(self.module, _LeanNorm):
            return self.module.stock_forward(inputs)
        return self.module.forward(inputs)


class _Replayed(torch.autograd.Function):
    """A module without state, whose input is kept as its recipe."""

    @staticmethod
    def forward(
        ctx: Any, inputs: Tensor, replay: _Replay, *_parameters: Tensor
    ) -> Tensor:
        ctx.replay = replay
        keep(ctx, inputs)
        return replay(inputs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (inputs,) = kept(ctx, 0)
        wanted = [ctx.needs_input_grad[0], *ctx.needs_input_grad[2:]]
        parameters = list(ctx.replay.module.parameters())
        with torch.enable_grad():
            again = inputs.detach().requires_grad_()
            output = ctx.replay(again)
            sources = [
                source
                for source, needed in zip(
                    [again, *parameters], wanted, strict=True
                )
                if needed
            ]
            found = iter(torch.autograd.grad(output, sources, gradient))
        to_inputs, *to_parameters = [
            next(found) if needed else None for needed in wanted
        ]
        return to_inputs, None, *to_parameters


class _LeanNorm(nn.Module):
    """A norm that keeps its input as a recipe, and leaves one."""

    def stock_forward(self, x: Tensor) -> Tensor:
        """Compute the norm as its stock class does."""
        return super().forward(x)

    def forward(self, *inputs: Tensor, **named: Tensor) -> Tensor:
        """Normalize as the stock class does, and leave a recipe."""
        (x,) = (*inputs, *named.values())
        if torch.compiler.is_compiling() or not torch.is_grad_enabled():
            return self.stock_forward(x)
        replay = _Replay(self, x.device.type)
        if recipe_of(x) is None:
            output = self.stock_forward(x)
        else:
            output = _Replayed.apply(x, replay, *self.parameters())
        leave_recipe(output, replay, [x])
        return output


class LeanLayerNorm(_LeanNorm, nn.LayerNorm):
    """``nn.LayerNorm`` that keeps nothing which can be rebuilt."""


class LeanTimmLayerNorm(_LeanNorm, timm_norm.LayerNorm):
    """timm's ``LayerNorm`` that keeps nothing which can be rebuilt."""


class LeanTimmLayerNorm2d(_LeanNorm, timm_norm.LayerNorm2d):
    """timm's ``LayerNorm2d`` that keeps nothing which can be rebuilt."""


_LEAN_NORMS: dict[type[nn.Module], type[nn.Module]] = {
    nn.LayerNorm: LeanLayerNorm,
    timm_norm.LayerNorm: LeanTimmLayerNorm,
    timm_norm.LayerNorm2d: LeanTimmLayerNorm2d,
}
_STOCK_NORMS = {lean: stock for stock, lean in _LEAN_NORMS.items()}
