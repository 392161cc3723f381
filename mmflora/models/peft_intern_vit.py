"""InternViT with a frozen base and adapters."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch

from mmflora.adapters.inject import Targets
from mmflora.adapters.quantized import Quantization
from mmflora.adapters.quantized_base import quantize_base
from mmflora.registry import MODELS

from .frozen import adapt_backbone
from .intern_vit import InternViT


@MODELS.register_module()
class PEFTInternViT(InternViT):
    """A frozen InternViT that learns through its adapters and pyramid.

    Args:
        *args: As for :class:`InternViT`, also ``**kwargs``; ``init_cfg``
            names the frozen base, which is loaded here.
        adapter: The adapters' configuration; ``None`` for none at all.
        targets: Which layers to adapt; by default the linear layers of all
            blocks (qkv, proj, fc1, fc2), as in the paper.
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
        ...     type='mmflora.PEFTInternViT',
        ...     adapter=None,
        ...     dtype='bfloat16',
        ...     autocast='bfloat16',
        ...     init_cfg=dict(
        ...         type='Pretrained', checkpoint='intern_vit_6b_224px.pth'
        ...     ),
        ... )
    """

    def __init__(
        self,
        *args: Any,
        adapter: Mapping[str, Any] | None,
        targets: Targets | None = None,
        exclude: str | Iterable[str] = (),
        lean: bool = False,
        quantize: Mapping[str, Any] | None = None,
        allow_other_quantization: bool = False,
        allow_random_base: bool = False,
        **kwargs: Any,
    ) -> None:
        # Before any memory is touched, see _allocate().
        self.quantization = Quantization.of(quantize)
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

    def _allocate(self, device: torch.device) -> None:
        """Ask for few bits where they are enough."""
        if self.quantization is not None:
            quantize_base(self, self.quantization, fill=False)
        super()._allocate(device)


@MODELS.register_module()
class FLoRAInternViT(PEFTInternViT):
    """A frozen InternViT that learns through FLoRA's updates, ΔW = s A G Bᵀ.

    Args:
        *args: As for :class:`PEFTInternViT`, also ``**kwargs``.
        adapter: FLoRA's configuration; the default is the paper's for
            InternViT-6B, of rank 16 and scale 0.04.

    Example:
        >>> backbone = dict(
        ...     type='mmflora.FLoRAInternViT',
        ...     img_size=504,
        ...     adapter=dict(type='FLoRA', rank=16, scale=0.04),
        ...     dtype='bfloat16',
        ...     autocast='bfloat16',
        ...     with_cp=True,
        ...     init_cfg=dict(
        ...         type='Pretrained', checkpoint='intern_vit_6b_224px.pth'
        ...     ),
        ... )
    """

    def __init__(
        self,
        *args: Any,
        adapter: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if adapter is None:
            adapter = dict(type='FLoRA', rank=16, scale=0.04)
        super().__init__(*args, adapter=adapter, **kwargs)
