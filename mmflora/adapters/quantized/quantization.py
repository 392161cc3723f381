"""How a frozen base is quantized."""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from ..targets import check_names

QUANT_TYPES = {8: ('int8',), 4: ('nf4', 'fp4')}
# Those that the kernels of all devices take.
BLOCK_SIZES = (64, 128, 256, 512, 1024)


class Scheme(NamedTuple):
    """What the stored numbers of a weight mean.

    Attributes:
        bits: Bits of each number: 8 or 4.
        quant_type: ``'int8'``, or ``'nf4'`` or ``'fp4'``.
        block_size: How many consecutive numbers share a scale.
    """

    bits: int
    quant_type: str
    block_size: int

    def __str__(self) -> str:
        """Return it in words, for logs and errors."""
        return (
            f'{self.bits} bits ({self.quant_type}, blocks of '
            f'{self.block_size})'
        )


@dataclasses.dataclass(frozen=True)
class Quantization:
    """The option ``quantize`` of a backbone with a frozen base.

    Args:
        bits: 8 or 4.
        quant_type: With 8 bits ``'int8'``: 255 equal steps.  With 4 bits
            ``'nf4'``, whose 16 values are the quantiles of a Gaussian
            (Dettmers et al., "QLoRA", 2023), or ``'fp4'``.  By default the
            first.
        block_size: How many consecutive numbers share a scale, one of 64,
            128, 256, 512, 1024: small blocks are more exact, and larger by
            16 / block_size bits for each number of a half-precision base.
        targets: Names of the linear layers to quantize; by default those
            that the backbone's class names as ``default_targets``, else all.
        exclude: Names of linear layers to leave alone.

    Raises:
        TypeError: If an option is not known.
        ValueError: If one is not among those above.

    Example:
        >>> backbone = dict(
        ...     type='mmflora.FLoRAInternViT',
        ...     quantize=dict(bits=4, quant_type='nf4'),
        ...     init_cfg=dict(
        ...         type='Pretrained', checkpoint='intern_vit_6b_224px.pth'
        ...     ),
        ... )
    """

    bits: int
    quant_type: str = ''
    block_size: int = 64
    targets: str | Iterable[str] | None = None
    exclude: str | Iterable[str] = ()

    def __post_init__(self) -> None:
        """Check the options and fill in the default type."""
        if isinstance(self.bits, bool) or self.bits not in QUANT_TYPES:
            raise ValueError(
                '`quantize`: bits is 8 or 4 (leave `quantize` out for a base '
                f'in its own type), got bits={self.bits!r}.'
            )
        allowed = QUANT_TYPES[self.bits]
        if not self.quant_type:
            object.__setattr__(self, 'quant_type', allowed[0])
        if self.quant_type not in allowed:
            raise ValueError(
                f'`quantize`: with bits={self.bits}, quant_type is one of '
                f'{", ".join(allowed)}, got quant_type={self.quant_type!r}.'
            )
        if (
            isinstance(self.block_size, bool)
            or self.block_size not in BLOCK_SIZES
        ):
            raise ValueError(
                '`quantize`: block_size is one of '
                f'{", ".join(map(str, BLOCK_SIZES))}, got '
                f'block_size={self.block_size!r}.'
            )

    @classmethod
    def of(cls, options: Any) -> 'Quantization | None':
        """Read the option as it stands in a configuration.

        Raises:
            TypeError: If it is something else, or has unknown entries.
            ValueError: If an entry is not allowed.
        """
        if options is None or isinstance(options, cls):
            return options
        if not isinstance(options, Mapping) or 'bits' not in options:
            raise TypeError(
                '`quantize` is None or a dict with bits, such as '
                f'dict(bits=8), got {options!r}.'
            )
        known = [field.name for field in dataclasses.fields(cls)]
        check_names('`quantize`', 'option', options, known)
        return cls(**options)

    @property
    def scheme(self) -> Scheme:
        """What the stored numbers mean."""
        return Scheme(self.bits, self.quant_type, self.block_size)
