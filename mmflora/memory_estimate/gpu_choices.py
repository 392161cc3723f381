"""Choices that PyTorch makes differently on a GPU, for fake CPU tensors.

PyTorch's own engine runs backward passes of fake CPU tensors; without a GPU it
cannot run those of fake GPU tensors.  So the forecast uses CPU tensors, and
this file makes the choices that PyTorch makes by device.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.library import Library

from mmflora.adapters.memory import response_norm
from mmflora.adapters.operators import geometry

from .mmcv_operators import mmcv_gpu_choices

_aten = torch.ops.aten
_ABSENT = object()
_HALF = (torch.float16, torch.bfloat16)
# The widest head that the fused kernel for half precision takes.
_FLASH_WIDTH = 256
# Operators that autocast runs in float32 on a GPU, but not on a CPU; in the
# second line those that convert by their own argument `dtype`.
_FLOAT32 = (
    'layer_norm native_layer_norm group_norm exp expm1 log log10 log1p log2 '
    'reciprocal rsqrt softplus cosine_similarity dist renorm logsumexp '
    'pow.Scalar pow.Tensor_Scalar pow.Tensor_Tensor upsample_bilinear2d '
    'upsample_bicubic2d upsample_nearest2d norm.Scalar nuclear_norm'
)
_TO_FLOAT32 = (
    'softmax.int log_softmax.int sum sum.dim_IntList cumsum cumprod '
    'linalg_vector_norm'
)


@contextmanager
def replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Let an attribute of a module or class have another value for a while.

    Args:
        owner: The module or class.
        name: The attribute; a class may inherit it.
        value: What it is meanwhile.
    """
    before = vars(owner).get(name, _ABSENT)
    setattr(owner, name, value)
    try:
        yield
    finally:
        if before is _ABSENT:
            delattr(owner, name)
        else:
            setattr(owner, name, before)


@contextmanager
def gpu_choices() -> Iterator[None]:
    """Decide on the CPU as PyTorch, mmcv and mmflora do on a GPU."""
    with ExitStack() as stack:
        autocast = Library('aten', 'IMPL')
        stack.callback(autocast._destroy)
        for name in _FLOAT32.split():
            autocast.impl(name, _in_float32(name, {}), 'AutocastCPU')
        for name in _TO_FLOAT32.split():
            kernel = _in_float32(name, dict(dtype=torch.float32))
            autocast.impl(name, kernel, 'AutocastCPU')
        for owner, name, value in (
            (F, 'scaled_dot_product_attention', _attention),
            (F, 'dropout', partial(_dropout, F.dropout)),
            # What comes from NumPy is copied to the GPU.
            (torch, 'from_numpy', partial(_copied, torch.from_numpy)),
            (geometry, 'on_cpu', _no),
            (response_norm, 'on_cpu', _no),
            *mmcv_gpu_choices(),
        ):
            stack.enter_context(replaced(owner, name, value))
        yield


def _in_float32(name: str, options: dict[str, Any]) -> Callable[..., Any]:
    """Return autocast's kernel of an operator that runs in float32."""
    packet, _, overload = name.partition('.')
    function = getattr(getattr(_aten, packet), overload or 'default')
    autocast = torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastCPU)

    def kernel(*args: Any, **kwargs: Any) -> Any:
        with torch._C._ExcludeDispatchKeyGuard(autocast):
            if not options:
                args = tuple(map(_widened, args))
            elif args[0].dtype in _HALF and kwargs.get('dtype') is None:
                kwargs = {**kwargs, **options}
            return function(*args, **kwargs)

    return kernel


def _widened(value: Any) -> Any:
    half = isinstance(value, Tensor) and value.dtype in _HALF
    return value.float() if half else value


def _no(_tensor: Tensor) -> bool:
    return False


def _copied(from_numpy: Callable[[Any], Tensor], array: Any) -> Tensor:
    return from_numpy(array).clone()


def _dropout(
    stock: Callable[..., Tensor],
    input: Tensor,
    p: float = 0.5,
    training: bool = True,
    inplace: bool = False,
) -> Tensor:
    """Drop by the fused kernel, which keeps a mask of one byte each."""
    if inplace or not training or not 0 < p < 1:
        return stock(input, p, training, inplace)
    return torch.native_dropout(input, p, True)[0]


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
    if torch.is_autocast_enabled('cpu'):
        dtype = torch.get_autocast_dtype('cpu')
        query, key, value = (part.to(dtype) for part in (query, key, value))
    if enable_gqa:
        groups = query.shape[-3] // key.shape[-3]
        key = key.repeat_interleave(groups, -3)
        value = value.repeat_interleave(groups, -3)
    options: dict[str, Any] = dict(is_causal=is_causal, scale=scale)
    if query.dim() != 4:  # no fused kernel takes it
        with torch.autocast('cpu', enabled=False):  # which is left by then
            return _aten._scaled_dot_product_attention_math(
                query, key, value, attn_mask, dropout_p, **options
            )[0]
    half = query.dtype in _HALF and query.shape[-1] <= _FLASH_WIDTH
    if attn_mask is None and half:
        return _aten._scaled_dot_product_flash_attention(
            query, key, value, dropout_p, **options
        )[0]
    if attn_mask is not None:
        bias = torch.zeros_like(attn_mask, dtype=query.dtype)
        attn_mask = bias.expand(*query.shape[:-1], key.shape[-2])
    grad = torch.is_grad_enabled()
    return _aten._scaled_dot_product_efficient_attention(
        query, key, value, attn_mask, grad, dropout_p, **options
    )[0]
