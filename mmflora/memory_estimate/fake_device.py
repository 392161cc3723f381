"""A device that is not there: fake tensors that behave as on it.

On a fake GPU autocast follows the GPU's lists, composite operators decide as
for a GPU, and attention takes a fused kernel; shapes, types and lifetimes are
those of a real one.  No driver is asked for anything.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils import checkpoint

from .extension_ops import extension_ops_stand_in
from .known_values import KnownValues
from .replaced import replaced
from .walkable import walkable_graphs

_HALF = (torch.float16, torch.bfloat16)
# The widest head that the fused kernel for half precision takes.
_FLASH_WIDTH = 256


@contextmanager
def fake_device(device_type: str) -> Iterator[KnownValues]:
    """Make every tensor a fake one, and those of a GPU possible.

    Args:
        device_type: ``'cuda'`` or ``'cpu'``: for which to decide.

    Yields:
        The mode that follows values.
    """
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    values = KnownValues(mode)
    with ExitStack() as stack:
        if device_type == 'cuda':
            _enter_gpu(stack)
        _enter_python(stack, values)
        stack.enter_context(walkable_graphs())
        stack.enter_context(extension_ops_stand_in(values))
        stack.enter_context(mode)
        stack.enter_context(values)
        yield values


def _enter_gpu(stack: ExitStack) -> None:
    """Let autocast and attention decide as on a GPU."""
    for owner, name, value in (
        (torch.cuda.amp.common, 'amp_definitely_not_available', _no),
        (torch.cuda, 'is_bf16_supported', _yes),
        (F, 'scaled_dot_product_attention', _attention),
    ):
        stack.enter_context(replaced(owner, name, value))


def _enter_python(stack: ExitStack, values: KnownValues) -> None:
    """Let values leave fake tensors for NumPy and lists."""

    def numpy(tensor: Tensor, **_options: Any) -> Any:
        return values.take(tensor, 'numpy')

    def tolist(tensor: Tensor) -> Any:
        return values.take(tensor, 'tolist')

    def copied(tensor: Tensor, memo: dict[int, Any]) -> Tensor:
        # Stock copies take the memory along, with the values on the CPU.
        memo[id(tensor)] = copy = tensor.detach().clone()
        return copy.requires_grad_(tensor.requires_grad)

    for name, method in (
        ('numpy', numpy),
        ('tolist', tolist),
        ('__deepcopy__', copied),
    ):
        stack.enter_context(replaced(FakeTensor, name, method))
    # Recomputation restores the states of the random numbers, which are real
    # tensors, on CPU and GPU.
    for owner, name, value in (
        (torch, 'get_rng_state', _no),
        (torch, 'set_rng_state', _no),
        (checkpoint, '_get_device_module', _no),
        (nn.Module, '_apply', _convert),
    ):
        stack.enter_context(replaced(owner, name, value))


def _convert(
    module: nn.Module,
    convert: Callable[[Tensor], Tensor],
    recurse: bool = True,
) -> nn.Module:
    """Stand in for ``Module._apply``, which swaps memory that is not there."""
    for child in module.modules() if recurse else [module]:
        for name, parameter in child._parameters.items():
            if parameter is not None:
                with torch.no_grad():
                    made = convert(parameter)
                if made is not parameter:
                    child._parameters[name] = nn.Parameter(
                        made, parameter.requires_grad
                    )
        for name, buffer in child._buffers.items():
            if buffer is not None:
                child._buffers[name] = convert(buffer)
    return module


def _no(*_: Any, **__: Any) -> bool:
    return False


def _yes(*_: Any, **__: Any) -> bool:
    return True


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Attend by the fused kernel that a GPU takes for such tensors."""
    if torch.is_autocast_enabled('cuda'):
        dtype = torch.get_autocast_dtype('cuda')
        query, key, value = (part.to(dtype) for part in (query, key, value))
    if enable_gqa:
        groups = query.shape[-3] // key.shape[-3]
        key = key.repeat_interleave(groups, -3)
        value = value.repeat_interleave(groups, -3)
    if (
        attn_mask is None
        and query.dtype in _HALF
        and query.shape[-1] <= _FLASH_WIDTH
    ):
        output: Tensor = torch.ops.aten._scaled_dot_product_flash_attention(
            query, key, value, dropout_p, is_causal, scale=scale
        )[0]
        return output
    if attn_mask is not None:
        bias = torch.zeros_like(attn_mask, dtype=query.dtype)
        size = (*query.shape[:-1], key.shape[-2])
        attn_mask = bias.expand(size)
    output = torch.ops.aten._scaled_dot_product_efficient_attention(
        query,
        key,
        value,
        attn_mask,
        torch.is_grad_enabled(),
        dropout_p,
        is_causal,
        scale=scale,
    )[0]
    return output
