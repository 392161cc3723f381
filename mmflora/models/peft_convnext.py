"""ConvNeXt and ConvNeXt-V2 with a frozen base and adapters."""

from mmflora.registry import MODELS

from .convnext import ConvNeXt
from .frozen import FrozenBackbone


@MODELS.register_module()
class PEFTConvNeXt(FrozenBackbone, ConvNeXt):
    """A frozen ConvNeXt that learns through its adapters and output norms.

    The arguments are those of :class:`ConvNeXt`, and ``peft``; by default
    every convolution and linear layer is adapted, as in the paper.

    Example:
        >>> frozen = dict(
        ...     type='mmflora.PEFTConvNeXt',
        ...     arch='convnextv2_large',
        ...     peft=dict(adapter=None),
        ...     init_cfg=dict(type='Pretrained', checkpoint='v2_large.pt'),
        ... )
    """


@MODELS.register_module()
class FLoRAConvNeXt(PEFTConvNeXt):
    r"""A frozen ConvNeXt that learns through FLoRA's Tucker updates.

    It is :class:`PEFTConvNeXt` with another default: FLoRA as the paper sets
    it for ConvNeXt-V2-L at rank 16.

    Example:
        >>> backbone = dict(
        ...     type='mmflora.FLoRAConvNeXt',
        ...     arch='convnextv2_large',
        ...     peft=dict(
        ...         adapter=dict(
        ...             type='FLoRA', rank=16, kernel_rank=2, scale=4.0
        ...         ),
        ...         targets={r'stages\.3\..*': dict(rank=32), '.*': {}},
        ...     ),
        ...     autocast='bfloat16',
        ...     init_cfg=dict(type='Pretrained', checkpoint='v2_large.pt'),
        ... )
    """

    default_adapter = dict(type='FLoRA')
