"""Numbers to 8 or 4 bits and back, by the operators of bitsandbytes.

Dettmers et al., "8-bit Optimizers via Block-wise Quantization" (2022) and
"QLoRA: Efficient Finetuning of Quantized LLMs" (2023).  A weight is read as
one row of numbers and cut into blocks.  The scale of a block is its largest
magnitude.  Each number is divided by the scale and replaced by the nearest
entry of a table.  The tables contain 1, so rounding again changes nothing.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .quantization import Scheme

REQUIREMENT = 'bitsandbytes>=0.50.2,<0.51'
# Numbers that are rounded at once: what is needed beside weight and result.
CHUNK = 1 << 20


class MissingBitsAndBytes(ImportError):
    """The library bitsandbytes, which is optional, is not there."""


class Stored(NamedTuple):
    """Quantized numbers.

    Attributes:
        codes: Entries of the table, shape ``(blocks, bytes)``, uint8.
        scales: The blocks' largest magnitudes, shape ``(blocks,)``.
    """

    codes: Tensor
    scales: Tensor


def load_kernels() -> Any:
    """Import bitsandbytes, which takes a second, when it is first needed.

    Returns:
        Its operators.

    Raises:
        MissingBitsAndBytes: If it cannot be imported, with the way to
            install it.
    """
    try:
        import bitsandbytes  # noqa: F401
    except ImportError as error:
        raise MissingBitsAndBytes(
            '`quantize` takes its kernels from bitsandbytes, which cannot be '
            f"imported here ({error}). Install it: `pip install 'mmflora"
            f"[quantize]'` or `pip install '{REQUIREMENT}'`; or leave "
            '`quantize` out.'
        ) from error
    return torch.ops.bitsandbytes


def blank(
    count: int, scheme: Scheme, dtype: torch.dtype, device: Any
) -> Stored:
    """Return memory for quantized numbers.

    The scales, to whose type numbers are brought back, have the weight's own,
    as each is one of its numbers; float32 for float64, which no kernel takes.
    """
    blocks = -(-count // scheme.block_size)
    width = scheme.block_size * scheme.bits // 8
    kind = torch.float32 if dtype == torch.float64 else dtype
    return Stored(
        torch.empty(blocks, width, dtype=torch.uint8, device=device),
        torch.empty(blocks, dtype=kind, device=device),
    )


def quantize_into(stored: Stored, values: Tensor, scheme: Scheme) -> float:
    """Quantize numbers, a part at a time.

    Args:
        stored: Where they go, changed in place.
        values: The numbers, of any shape, in the type of the scales.
        scheme: Their meaning.

    Returns:
        The relative error ‖W − W'‖ / ‖W‖ in float32; 0 if all are zero.

    Raises:
        MissingBitsAndBytes: If the library is not there.
        ValueError: If a number is not finite.
    """
    kernels = load_kernels()
    lost = total = 0.0
    for first, part in _parts(values.detach().reshape(-1), scheme):
        if not part.isfinite().all():
            raise ValueError(
                'A weight with values that are not finite cannot be '
                'quantized. Take another copy of the base, or `exclude` the '
                'layer in `quantize`.'
            )
        if scheme.bits == 8:
            table = _table(part.device)
            codes, scales = kernels.quantize_blockwise(
                part, table, scheme.block_size
            )
        else:
            codes, scales = kernels.quantize_4bit(
                part, scheme.block_size, scheme.quant_type, torch.uint8
            )
        rows = slice(first, first + len(scales))
        stored.codes[rows].copy_(codes.view(len(scales), -1))
        stored.scales[rows].copy_(scales)
        done = Stored(stored.codes[rows], stored.scales[rows])
        rounded = dequantize(done, part.numel(), scheme)
        lost += float((rounded.float() - part.float()).square().sum())
        total += float(part.float().square().sum())
    return (lost / total) ** 0.5 if total else 0.0


def dequantize(stored: Stored, count: int, scheme: Scheme) -> Tensor:
    """Bring numbers back, rounded to the type of the scales.

    Args:
        stored: The quantized numbers.
        count: How many there are; the last block may not be full.
        scheme: Their meaning.

    Returns:
        Shape ``(count,)``.
    """
    kernels = load_kernels()
    codes, dtype = stored.codes, stored.scales.dtype
    scales = stored.scales.float()
    if scheme.bits == 8:
        values = kernels.dequantize_blockwise(
            codes, scales, _table(codes.device), scheme.block_size, dtype
        )
    else:
        # By rows of one block: the kernels share out rows among processors.
        values = kernels.dequantize_4bit(
            codes,
            scales,
            scheme.block_size,
            scheme.quant_type,
            [len(codes), scheme.block_size],
            dtype,
        )
    return values.reshape(-1)[:count]


def _table(device: torch.device) -> Tensor:
    """Return the values of the 8-bit codes: -127/127 … 127/127.

    The first of the 256 entries, beyond -1, is never the nearest.
    """
    steps = torch.arange(-128, 128, device=device, dtype=torch.float32)
    return steps / 127


def _parts(flat: Tensor, scheme: Scheme) -> Iterator[tuple[int, Tensor]]:
    """Yield the first block and the numbers of each part, in whole blocks."""
    for start in range(0, flat.numel(), CHUNK):
        part = flat[start : start + CHUNK]
        rest = -part.numel() % scheme.block_size
        if rest:
            part = torch.nn.functional.pad(part, (0, rest))
        yield start // scheme.block_size, part.contiguous()
