"""InternViT, the vision transformer of InternVL, for dense tasks.

Chen et al., "InternVL: Scaling up Vision Foundation Models and Aligning for
Generic Visual-Linguistic Tasks" (2023).  The blocks are timm's, under timm's
keys, with RMS norms of float32 statistics, q and k norms over the full width
and no norm at the end.  Sizes default to InternViT-6B's; any other works.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
from mmengine.model import BaseModule
from timm.layers import PatchEmbed
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mmflora.checkpoint.base_weights import CLASSIFIER_KEYS, pretrained_cfg
from mmflora.checkpoint.keys import state_shapes
from mmflora.checkpoint.layouts.intern_vit_keys import (
    UNUSED_KEYS,
    resize_positions,
)
from mmflora.checkpoint.layouts.intern_vit_weights import (
    load_intern_vit,
)
from mmflora.registry import MODELS

from .autocast import run_in_autocast
from .intern_vit_blocks import (
    FeaturePyramid,
    FullWidthAttention,
    RMSNorm,
    as_image,
    to_whole_patches,
)
from .intern_vit_options import (
    check_dtype,
    check_out_indices,
    check_with_cp,
    patch_grid,
)


@MODELS.register_module()
class InternViT(BaseModule):
    """An InternViT backbone with a feature pyramid.

    Args:
        img_size: Height and width of the images (one number for both) that
            the position embeddings are kept for.  A file's are resized to it
            once, on loading; images of any other size work too.
        patch_size: Side of a patch; a file's kernel is resized to it.
        embed_dims: Width.
        depth: Blocks: 48 in the weights of 224 px, 45 in those of 448 px
            from V1.2 on.
        num_heads: Heads of each attention.
        mlp_ratio: Width of the MLPs over that of the blocks.
        qkv_bias: Whether queries, keys and values have biases.
        qk_norm: Whether queries and keys are normed, over the full width.
        layer_scale: Where the layer scales start.
        out_indices: The blocks whose outputs are returned.  Blocks after the
            last of them are not built.
        pyramid: Bring four outputs to strides of 1/4, 1/2, 1 and 2 patches
            by new layers, which train; else all have the patches' stride.
        drop_path_rate: Stochastic depth, growing linearly to this rate.
        with_cp: Activation checkpointing, never re-entrant: ``True``
            recomputes each block in the backward pass, ``'mlp'`` the second
            half of each, which is cheaper and keeps what attention needs.
        dtype: ``'bfloat16'`` or ``'float16'``: the type in which the
            pre-trained parameters are kept; the pyramid's are float32.
            ``None``: PyTorch's default.
        autocast: ``'bfloat16'`` or ``'float16'``: compute under autocast,
            with float32 features out; ``None``: do not.
        init_cfg: ``dict(type='Pretrained', checkpoint=...)`` with a local
            file, an index of shards, or a folder of either, in the authors'
            layout or one of the two on Hugging Face; ``prefix='backbone.'``
            takes the backbone of a segmenter.  Every key must fit.

    Raises:
        ValueError: If an option is not one of those above.

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
    # Loading accounts for every key itself.
    checks_base = True

    def __init__(
        self,
        img_size: int | Sequence[int] = 224,
        patch_size: int = 14,
        embed_dims: int = 3200,
        depth: int = 48,
        num_heads: int = 25,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = False,
        qk_norm: bool = True,
        layer_scale: float = 0.1,
        out_indices: Sequence[int] = (11, 23, 35, 47),
        pyramid: bool = True,
        drop_path_rate: float = 0.0,
        with_cp: bool | str = False,
        dtype: str | None = None,
        autocast: str | None = None,
        init_cfg: Any = None,
    ) -> None:
        super().__init__(init_cfg=init_cfg)
        self.out_indices = check_out_indices(out_indices, depth, pyramid)
        self.with_cp = check_with_cp(with_cp)
        self.patch_size = (patch_size, patch_size)
        self.grid_size = patch_grid(img_size, patch_size)
        built = self.out_indices[-1] + 1
        rates = torch.linspace(0, drop_path_rate, depth, device='cpu').tolist()
        block = partial(
            Block,
            embed_dims,
            num_heads,
            mlp_ratio,
            qkv_bias=qkv_bias,
            qk_norm=qk_norm,
            init_values=layer_scale,
            norm_layer=partial(RMSNorm, eps=1e-6),
            attn_layer=FullWidthAttention,
        )
        blocks = [partial(block, drop_path=rate) for rate in rates[:built]]
        self._build_trunk(blocks, embed_dims, check_dtype(dtype))
        self.pyramid = FeaturePyramid(embed_dims) if pyramid else None
        self.out_channels = (embed_dims,) * len(self.out_indices)
        # The pyramid stands in no published backbone.
        self.new_params = (r'pyramid\..*',) if pyramid else ()
        self.unused_keys = _unused_keys(built, depth, pyramid)
        if autocast is not None:
            run_in_autocast(self, autocast)
        self.stock_shapes = state_shapes(self)

    def _build_trunk(
        self, blocks: list[Any], width: int, dtype: torch.dtype | None
    ) -> None:
        """Build what a file of weights holds.

        Where one is named, no memory is touched before it is filled from it:
        the trunk is built without storage, which then is allocated blank.
        """
        device = torch.get_default_device()
        blank = pretrained_cfg(self.init_cfg) is not None
        tokens = 1 + self.grid_size[0] * self.grid_size[1]
        options: dict[str, Any] = dict(dtype=dtype)
        with torch.device('meta') if blank else nullcontext():
            self.patch_embed = PatchEmbed(
                None,
                self.patch_size[0],
                embed_dim=width,
                strict_img_size=False,
                **options,
            )
            self.cls_token = nn.Parameter(torch.zeros(1, 1, width, **options))
            self.pos_embed = nn.Parameter(
                torch.zeros(1, tokens, width, **options)
            )
            self.blocks = nn.ModuleList(block(**options) for block in blocks)
        if blank:
            self._allocate(device)
        else:
            self._draw_trunk()

    def _allocate(self, device: torch.device) -> None:
        """Give the parameters, built without memory, blank memory."""
        self.to_empty(device=device)

    def _draw_trunk(self) -> None:
        for parameter in (self.cls_token, self.pos_embed):
            nn.init.trunc_normal_(parameter, std=0.02)
        for module in self.blocks.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def init_weights(self) -> None:
        """Load the weights that ``init_cfg`` names, checking every key.

        Raises:
            FileNotFoundError: If a file is missing.
            ValueError: If it does not fit the backbone exactly.
        """
        source = pretrained_cfg(self.init_cfg)
        if source is None:
            super().init_weights()
            return
        load_intern_vit(
            self,
            source,
            self.stock_shapes,
            self.new_params,
            self.unused_keys,
            self.grid_size,
        )
        self._is_init = True

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Return timm's patterns of the layers, for layer-wise decay."""
        return dict(
            stem=r'cls_token|pos_embed|patch_embed',
            blocks=r'blocks\.(\d+)',
            pyramid=r'pyramid',
        )

    def forward(self, inputs: Tensor) -> tuple[Tensor, ...]:
        """Return the features of the chosen blocks.

        Args:
            inputs: Images, shape ``(N, 3, H, W)``.  Sides that are no
                multiples of the patch are resized to the next one.

        Returns:
            Contiguous tensors in float32 at least: with the pyramid four of
            shape ``(N, C, s · h, s · w)`` for s = 4, 2, 1, 1/2, where
            ``(h, w)`` is the grid of patches; else one of ``(N, C, h, w)``
            per index.
        """
        images = to_whole_patches(inputs, self.patch_size)
        grid = (
            images.shape[-2] // self.patch_size[0],
            images.shape[-1] // self.patch_size[1],
        )
        x = self.patch_embed(images.to(self.pos_embed.dtype))
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1)
        x = x + resize_positions(self.pos_embed, self.grid_size, grid)
        features = []
        for index, block in enumerate(self.blocks):
            x = self._run_block(block, x)
            if index in self.out_indices:
                features.append(as_image(x, grid))
        if self.pyramid is not None:
            features = list(self.pyramid(tuple(features)))
        # Heads take no lower precision, with autocast or without.
        return tuple(
            feature.to(
                torch.promote_types(feature.dtype, torch.float32)
            ).contiguous()
            for feature in features
        )

    def _run_block(self, block: Any, x: Tensor) -> Tensor:
        if not self.with_cp or not torch.is_grad_enabled():
            return block(x)
        if self.with_cp == 'mlp':
            x = x + block.drop_path1(block.ls1(block.attn(block.norm1(x))))
            return x + checkpoint(_mlp, block, x, use_reentrant=False)
        return checkpoint(block, x, use_reentrant=False)


def _mlp(block: Any, x: Tensor) -> Tensor:
    """Compute the second branch of a block."""
    return block.drop_path2(block.ls2(block.mlp(block.norm2(x))))


def _unused_keys(built: int, depth: int, pyramid: bool) -> tuple[str, ...]:
    """Return patterns of the keys of a file that the backbone may lack."""
    later = '|'.join(str(index) for index in range(built, depth))
    return (
        *CLASSIFIER_KEYS,
        *UNUSED_KEYS,
        *(() if pyramid else (r'pyramid\..*',)),
        *((rf'blocks\.({later})\..*',) if later else ()),
    )
