"""InternViT with a frozen base and adapters."""

import torch

from mmflora.adapters.quantized import Quantization
from mmflora.adapters.quantized_base import quantize_base
from mmflora.registry import MODELS

from .frozen import FrozenBackbone
from .intern_vit import InternViT


@MODELS.register_module()
class PEFTInternViT(FrozenBackbone, InternViT):
    """A frozen InternViT that learns through its adapters and pyramid.

    The arguments are those of :class:`InternViT`, and ``peft``; by default
    the linear layers of all blocks (qkv, proj, fc1, fc2) are adapted, as in
    the paper.

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

    def _allocate(self, device: torch.device) -> None:
        """Quantize the layers before they get any memory."""
        quantization = Quantization.of(self.peft_options.quantize)
        if quantization is not None:
            quantize_base(self, quantization, fill=False)
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
