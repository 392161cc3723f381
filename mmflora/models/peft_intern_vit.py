"""InternViT with a frozen base and adapters."""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch

from mmflora.adapters.quantized import Quantization
from mmflora.adapters.quantized_base import quantize_base
from mmflora.registry import MODELS

from .frozen import adapt_backbone
from .intern_vit import InternViT
from .peft_options import PEFTOptions


@MODELS.register_module()
class PEFTInternViT(InternViT):
    """A frozen InternViT that learns through its adapters and pyramid.

    Args:
        *args: As for :class:`InternViT`; ``init_cfg`` names the frozen base,
            which is loaded here.
        peft: How it is adapted, see
            :class:`mmflora.models.peft_options.PEFTOptions`; by default the
            linear layers of all blocks (qkv, proj, fc1, fc2), as in the
            paper.
        **kwargs: As for :class:`InternViT`; settings of ``peft`` may stand
            here too.

    Raises:
        FileNotFoundError: If the base's file is missing.
        ValueError: If the base does not fit in full, or a pattern matches
            nothing.

    Example:
        >>> frozen = dict(
        ...     type='mmflora.PEFTInternViT',
        ...     peft=dict(adapter=None),
        ...     dtype='bfloat16',
        ...     autocast='bfloat16',
        ...     init_cfg=dict(
        ...         type='Pretrained', checkpoint='intern_vit_6b_224px.pth'
        ...     ),
        ... )
    """

    default_adapter: ClassVar[Mapping[str, Any] | None] = None

    def __init__(
        self,
        *args: Any,
        peft: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        options = PEFTOptions.take(
            kwargs, peft, ('autocast',), self.default_adapter
        )
        # Before any memory is touched, see _allocate().
        self.quantization = Quantization.of(options.quantize)
        super().__init__(*args, **kwargs)
        adapt_backbone(self, options)

    def _allocate(self, device: torch.device) -> None:
        """Ask for few bits where they are enough."""
        if self.quantization is not None:
            quantize_base(self, self.quantization, fill=False)
        super()._allocate(device)


@MODELS.register_module()
class FLoRAInternViT(PEFTInternViT):
    """A frozen InternViT that learns through FLoRA's updates, ΔW = s A G Bᵀ.

    It is :class:`PEFTInternViT` with another default: FLoRA as the paper sets
    it for InternViT-6B, of rank 16 and scale 0.04.

    Example:
        >>> backbone = dict(
        ...     type='mmflora.FLoRAInternViT',
        ...     img_size=504,
        ...     peft=dict(adapter=dict(type='FLoRA', rank=16, scale=0.04)),
        ...     dtype='bfloat16',
        ...     autocast='bfloat16',
        ...     with_cp=True,
        ...     init_cfg=dict(
        ...         type='Pretrained', checkpoint='intern_vit_6b_224px.pth'
        ...     ),
        ... )
    """

    default_adapter = dict(type='FLoRA', rank=16, scale=0.04)
