"""ConvNeXt and ConvNeXt-V2 with a frozen base and adapters."""

from collections.abc import Iterable, Mapping
from typing import Any

from mmflora.adapters.inject import Targets
from mmflora.registry import MODELS

from .convnext import ConvNeXt
from .frozen import adapt_backbone


@MODELS.register_module()
class PEFTConvNeXt(ConvNeXt):
    """A frozen ConvNeXt that learns through its adapters and output norms.

    Args:
        *args: As for :class:`ConvNeXt`, also ``**kwargs``; ``init_cfg`` names
            the frozen base, which is loaded here.
        adapter: The adapters' configuration; ``None`` for none at all.
        targets: Which layers to adapt; by default every convolution and
            linear layer, as in the paper.
        exclude: Which layers to leave alone.
        lean: Rebuild in the backward pass what is cheap to rebuild, see
            :mod:`mmflora.adapters.memory.lean`; else outputs of norms alone.
        quantize: Keep the weights of frozen linear layers in 8 or 4 bits,
            ``dict(bits=8)``; see
            :class:`mmflora.adapters.quantized.Quantization`.
        allow_other_quantization: Take adapters that were trained over the
            same base stored otherwise.
        allow_random_base: See
            :func:`mmflora.models.frozen.adapt_backbone`.

    Raises:
        FileNotFoundError: If the base's file is missing.
        ValueError: If the base does not fit in full, or a pattern matches
            nothing.

    Example:
        >>> frozen = dict(
        ...     type='mmflora.PEFTConvNeXt',
        ...     arch='convnextv2_large',
        ...     adapter=None,
        ...     init_cfg=dict(type='Pretrained', checkpoint='v2_large.pt'),
        ... )
    """

    def __init__(
        self,
        *args: Any,
        adapter: Mapping[str, Any] | None,
        targets: Targets = '.*',
        exclude: str | Iterable[str] = (),
        lean: bool = False,
        quantize: Mapping[str, Any] | None = None,
        allow_other_quantization: bool = False,
        allow_random_base: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        adapt_backbone(
            self,
            adapter,
            targets=targets,
            exclude=exclude,
            lean=lean,
            quantize=quantize,
            allow_other_quantization=allow_other_quantization,
            allow_random_base=allow_random_base,
        )


@MODELS.register_module()
class FLoRAConvNeXt(PEFTConvNeXt):
    r"""A frozen ConvNeXt that learns through FLoRA's Tucker updates.

    Args:
        *args: As for :class:`PEFTConvNeXt`, also ``**kwargs``.
        adapter: FLoRA's configuration; its defaults are the paper's for
            ConvNeXt-V2-L at rank 16.

    Example:
        >>> backbone = dict(
        ...     type='mmflora.FLoRAConvNeXt',
        ...     arch='convnextv2_large',
        ...     adapter=dict(
        ...         type='FLoRA', rank=16, kernel_rank=2, scale=4.0
        ...     ),
        ...     targets={r'stages\.3\..*': dict(rank=32), '.*': {}},
        ...     autocast='bfloat16',
        ...     init_cfg=dict(type='Pretrained', checkpoint='v2_large.pt'),
        ... )
    """

    def __init__(
        self,
        *args: Any,
        adapter: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if adapter is None:
            adapter = dict(type='FLoRA')
        super().__init__(*args, adapter=adapter, **kwargs)
