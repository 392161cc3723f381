"""Maps through a batch norm, without any other package.

A copy of this file belongs beside a config that names ``BatchNormNeck``; the
config loads it from its own folder.  It needs torch and mmengine alone.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from mmengine.model import BaseModule
from mmengine.registry import MODELS
from torch import Tensor, nn


# Several configs may each have a copy of this file.
@MODELS.register_module(force=True)
class BatchNormNeck(BaseModule):
    """A neck that takes each map through a batch norm of its own.

    In front of a head of one 1×1 convolution it makes the linear head with
    which DINOv2 (Oquab et al., 2023) and DINOv3 (Siméoni et al., 2025) are
    evaluated on segmentation.  It is new: it trains, and checkpoints hold it.

    Args:
        in_channels: Channels of the maps, one number for each.
        norm_cfg: The norm: ``dict(type='BN')`` or ``dict(type='SyncBN')``.
        init_cfg: As for any module of MMEngine.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        norm_cfg: Mapping[str, Any] | None = None,
        init_cfg: dict | list | None = None,
    ) -> None:
        super().__init__(init_cfg=init_cfg)
        self.in_channels = tuple(in_channels)
        options = dict(norm_cfg or dict(type='BN'))
        kind = {'BN': nn.BatchNorm2d, 'SyncBN': nn.SyncBatchNorm}.get(
            options.pop('type', None)
        )
        if kind is None:
            raise ValueError(
                "BatchNormNeck: `norm_cfg` is of type 'BN' or 'SyncBN', got "
                f'{norm_cfg!r}.'
            )
        self.norms = nn.ModuleList(
            kind(width, **options) for width in self.in_channels
        )

    def forward(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Return the normed maps, each ``(N, C_i, H_i, W_i)``.

        Raises:
            ValueError: If there are more or less maps, or of other channels.
        """
        widths = tuple(image.shape[1] for image in inputs)
        if widths != self.in_channels:
            raise ValueError(
                f'BatchNormNeck: in_channels={list(self.in_channels)}, but '
                f'the backbone gives {len(widths)} maps of {list(widths)} '
                'channels. Set in_channels to these, or out_indices of the '
                'backbone to as many.'
            )
        return tuple(
            norm(image) for norm, image in zip(self.norms, inputs, strict=True)
        )
