"""ConvNeXt and ConvNeXt-V2 with published weights and half the memory."""

from typing import Any

from timm.models import convnext as timm_convnext
from torch import Tensor

from mmflora.adapters.memory.response_norm import use_memory_efficient_grn
from mmflora.checkpoint.layouts.convnext_keys import (
    UNUSED_KEYS,
    convnext_to_timm,
)
from mmflora.registry import MODELS

from .plain.timm_features import TimmConvNeXt
from .published import PublishedWeights


@MODELS.register_module()
class ConvNeXt(PublishedWeights, TimmConvNeXt):
    """A ConvNeXt or ConvNeXt-V2 backbone.

    Args:
        *args: As for
            :class:`~mmflora.models.plain.timm_features.TimmConvNeXt`, also
            ``**kwargs``; ``init_cfg`` is ``dict(type='Pretrained',
            checkpoint=...)`` with a local file in FAIR's, timm's or
            mmpretrain's layout, a URL, or ``timm://<tag>``;
            ``prefix='backbone.'`` takes the backbone of a detector.  Every
            key must fit.
        autocast: ``'bfloat16'`` or ``'float16'``: compute under autocast,
            with float32 features out; ``None``: do not.

    Example:
        >>> backbone = dict(
        ...     type='mmflora.ConvNeXt',
        ...     arch='convnextv2_large',
        ...     init_cfg=dict(type='Pretrained', checkpoint='v2_large.pt'),
        ... )
    """

    # The norms of the outputs stand in no published checkpoint.
    new_params = (r'norm[0-3]\.(weight|bias)',)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        use_memory_efficient_grn(self)
        built = '|'.join(str(stage) for stage in range(len(self.stages)))
        self.unused_keys = (
            *UNUSED_KEYS,
            rf'stages\.(?!({built})\.).*',
        )

    def to_own_keys(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Rename weights of FAIR's or mmpretrain's layout to timm's."""
        return convnext_to_timm(state, self.stock_shapes)

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Return timm's patterns of the layers, for layer-wise decay."""
        matcher: Any = timm_convnext.ConvNeXt.group_matcher
        patterns: dict[str, Any] = matcher(self, coarse)
        return patterns
