"""ConvNeXt and ConvNeXt-V2 with a frozen base and adapters."""

from collections.abc import Mapping
from typing import Any, ClassVar

from mmflora.registry import MODELS

from .convnext import ConvNeXt
from .frozen import adapt_backbone
from .peft_options import PEFTOptions


@MODELS.register_module()
class PEFTConvNeXt(ConvNeXt):
    """A frozen ConvNeXt that learns through its adapters and output norms.

    Args:
        *args: As for :class:`ConvNeXt`; ``init_cfg`` names the frozen base,
            which is loaded here.
        peft: How it is adapted, see
            :class:`mmflora.models.peft_options.PEFTOptions`; by default every
            convolution and linear layer, as in the paper.
        **kwargs: As for :class:`ConvNeXt`; settings of ``peft`` may stand
            here too.

    Raises:
        FileNotFoundError: If the base's file is missing.
        ValueError: If the base does not fit in full, or a pattern matches
            nothing.

    Example:
        >>> frozen = dict(
        ...     type='mmflora.PEFTConvNeXt',
        ...     arch='convnextv2_large',
        ...     peft=dict(adapter=None),
        ...     init_cfg=dict(type='Pretrained', checkpoint='v2_large.pt'),
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
        super().__init__(*args, **kwargs)
        adapt_backbone(self, options)


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
