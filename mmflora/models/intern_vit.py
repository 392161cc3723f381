"""InternViT with published weights, read into it tensor by tensor."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch

from mmflora.checkpoint.base_weights import pretrained_cfg
from mmflora.checkpoint.keys import Shapes
from mmflora.checkpoint.layouts.intern_vit_keys import UNUSED_KEYS
from mmflora.checkpoint.layouts.intern_vit_weights import load_intern_vit
from mmflora.registry import MODELS

from .plain.intern_vit_features import PlainInternViT
from .published import PublishedWeights


@MODELS.register_module()
class InternViT(PublishedWeights, PlainInternViT):
    """An InternViT backbone with a feature pyramid.

    Args:
        *args: As for
            :class:`~mmflora.models.plain.intern_vit_features.PlainInternViT`,
            also ``**kwargs``; ``init_cfg`` is ``dict(type='Pretrained',
            checkpoint=...)`` with a local file, an index of shards, or a
            folder of either, in the authors' layout or one of the two on
            Hugging Face; ``prefix='backbone.'`` takes the backbone of a
            segmenter.  Every key must fit.  A file's position embeddings and
            patch kernel are resized once, on loading.
        autocast: ``'bfloat16'`` or ``'float16'``: compute under autocast,
            with float32 features out; ``None``: do not.

    Example:
        >>> backbone = dict(
        ...     type='mmflora.InternViT',
        ...     img_size=504,
        ...     init_cfg=dict(
        ...         type='Pretrained', checkpoint='intern_vit_6b_224px.pth'
        ...     ),
        ... )
    """

    # What adapters are for, if a configuration says nothing: every linear
    # layer, as in the paper; neither the patch embedding nor the pyramid.
    default_targets = r'blocks\.\d+\.(attn\.(qkv|proj)|mlp\.fc[12])'

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        later = '|'.join(map(str, range(len(self.blocks), self.depth)))
        # The pyramid stands in no published backbone.
        pyramid = (r'pyramid\..*',)
        self.new_params = pyramid if self.pyramid is not None else ()
        self.unused_keys = (
            *UNUSED_KEYS,
            *(() if self.pyramid is not None else pyramid),
            *((rf'blocks\.({later})\..*',) if later else ()),
        )

    def _build_trunk(self, *args: Any) -> None:
        """Build what a file of weights holds.

        Where one is named, no memory is touched before it is filled from it:
        the trunk is built without storage, which then is allocated blank.
        """
        if pretrained_cfg(self.init_cfg) is None:
            super()._build_trunk(*args)
            return
        device = torch.get_default_device()
        with torch.device('meta'):
            super()._build_trunk(*args)
        self._allocate(device)

    def _allocate(self, device: torch.device) -> None:
        """Give the parameters, built without memory, blank memory."""
        self.to_empty(device=device)

    def load_published(
        self,
        init_cfg: Mapping[str, Any],
        shapes: Shapes,
        optional: Iterable[str],
        unused: Iterable[str],
    ) -> None:
        """Load weights of any layout, see :func:`load_base`."""
        load_intern_vit(
            self, init_cfg, shapes, optional, unused, self.grid_size
        )

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Return timm's patterns of the layers, for layer-wise decay."""
        return dict(
            stem=r'cls_token|pos_embed|patch_embed',
            blocks=r'blocks\.(\d+)',
            pyramid=r'pyramid',
        )
