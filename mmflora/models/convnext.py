"""ConvNeXt and ConvNeXt-V2 with published weights and half the memory."""

from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

from timm.models import convnext as timm_convnext

from mmflora.adapters.memory.response_norm import use_memory_efficient_grn
from mmflora.checkpoint.base_weights import (
    load_base,
    load_converted,
    pretrained_cfg,
)
from mmflora.checkpoint.keys import Shapes, state_shapes
from mmflora.checkpoint.layouts.convnext_keys import (
    UNUSED_KEYS,
    convnext_to_timm,
)
from mmflora.registry import MODELS

from .autocast import run_in_autocast
from .plain.timm_features import TimmConvNeXt


@MODELS.register_module()
class ConvNeXt(TimmConvNeXt):
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
    new_params: tuple[str, ...] = (r'norm[0-3]\.(weight|bias)',)

    def __init__(
        self, *args: Any, autocast: str | None = None, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        use_memory_efficient_grn(self)
        if autocast is not None:
            run_in_autocast(self, autocast)
        self.stock_shapes = state_shapes(self)
        built = '|'.join(str(stage) for stage in range(len(self.stages)))
        self.unused_keys: tuple[str, ...] = (
            *UNUSED_KEYS,
            rf'stages\.(?!({built})\.).*',
        )

    def init_weights(self) -> None:
        """Load the weights that ``init_cfg`` names, checking every key.

        Raises:
            FileNotFoundError: If the file is missing.
            ValueError: If it does not fit the backbone exactly.
        """
        source = pretrained_cfg(self.init_cfg)
        if source is None:
            super().init_weights()
            return
        load_base(
            self,
            source,
            self.stock_shapes,
            self.new_params,
            self.unused_keys,
        )
        self._is_init = True

    def load_published(
        self,
        init_cfg: Mapping[str, Any],
        shapes: Shapes,
        optional: Iterable[str],
        unused: Iterable[str],
    ) -> None:
        """Load weights of any layout, see :func:`load_base`."""
        convert = partial(convnext_to_timm, shapes=shapes)
        load_converted(self, init_cfg, convert, shapes, optional, unused)

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Return timm's patterns of the layers, for layer-wise decay."""
        matcher: Any = timm_convnext.ConvNeXt.group_matcher
        patterns: dict[str, Any] = matcher(self, coarse)
        return patterns
