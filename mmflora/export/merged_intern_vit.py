"""InternViT for OpenMMLab, without any other package.

Chen et al., "InternVL: Scaling up Vision Foundation Models and Aligning for
Generic Visual-Linguistic Tasks" (2023).  This file belongs beside a config
that names ``PlainInternViT``; the config loads it from its own folder.  It
needs torch, timm and mmengine alone, so that a merged model runs wherever
OpenMMLab does.  Blocks are timm's, with RMS norms of float32 statistics, q
and k norms over the full width and no norm at the end.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.model import BaseModule
from mmengine.registry import MODELS
from timm.layers import Attention, LayerNorm2d, PatchEmbed
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


class RMSNorm(nn.RMSNorm):
    """RMS norm with float32 statistics, whose output has its input's type."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise ``(..., C)``."""
        weight = self.weight.to(x.dtype)
        kind = x.device.type
        off = torch.autocast(kind, enabled=False)
        with off if torch.is_autocast_enabled(kind) else nullcontext():
            return F.rms_norm(x, self.normalized_shape, weight, self.eps)


class FullWidthAttention(Attention):
    """timm's attention with q and k norms over all heads together.

    Arguments are timm's.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int = 8,
        *,
        qk_norm: bool = False,
        norm_layer: Any = None,
        **options: Any,
    ) -> None:
        super().__init__(dim, num_heads, norm_layer=norm_layer, **options)
        if qk_norm:
            kind = {key: options.get(key) for key in ('device', 'dtype')}
            self.q_norm = norm_layer(dim, **kind)
            self.k_norm = norm_layer(dim, **kind)

    def forward(
        self,
        x: Tensor,
        attn_mask: Tensor | None = None,
        is_causal: bool = False,
    ) -> Tensor:
        """Attend over ``(N, L, C)``."""
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        q, k, v = (
            part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for part in (self.q_norm(q), self.k_norm(k), v)
        )
        x = F.scaled_dot_product_attention(
            q, k, v, attn_mask=attn_mask, is_causal=is_causal
        )
        return self.proj(x.transpose(1, 2).flatten(2))


class FeaturePyramid(nn.Module):
    """Four levels of features, at 4, 2, 1 and 1/2 times the grid of patches.

    Args:
        width: Channels, the same on all levels.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.up1 = nn.Sequential(
            nn.ConvTranspose2d(width, width, 2, 2),
            LayerNorm2d(width),
            nn.GELU(),
            nn.ConvTranspose2d(width, width, 2, 2),
        )
        self.up2 = nn.Sequential(nn.ConvTranspose2d(width, width, 2, 2))
        self.down = nn.MaxPool2d(2, 2)

    def forward(self, features: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Rescale four features ``(N, C, H, W)``."""
        dtype = next(self.parameters()).dtype
        first, second, third, fourth = (x.to(dtype) for x in features)
        return self.up1(first), self.up2(second), third, self.down(fourth)


# Several configs may each have a copy of this file.
@MODELS.register_module(force=True)
class PlainInternViT(BaseModule):
    """InternViT with a feature pyramid, for dense prediction.

    Args:
        img_size: Height and width (one number for both) of the images that
            the position embeddings are kept for; others work too.
        patch_size: Side of a patch.
        embed_dims: Width.
        depth: Blocks; those after the last of ``out_indices`` are not built.
        num_heads: Heads of each attention.
        mlp_ratio: Width of the MLPs over that of the blocks.
        qkv_bias: Whether queries, keys and values have biases.
        qk_norm: Whether queries and keys are normed.
        layer_scale: Where the layer scales start.
        out_indices: The blocks whose outputs are returned.
        pyramid: Bring four outputs to four strides.
        drop_path_rate: Stochastic depth, growing linearly to this rate.
        with_cp: ``True``: recompute each block in the backward pass;
            ``'mlp'``: the second half of each.
        dtype: The type of all parameters but the pyramid's, ``'bfloat16'``;
            ``None``: PyTorch's default.
        init_cfg: As for any module of MMEngine.
    """

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
        init_cfg: Any = None,
    ) -> None:
        super().__init__(init_cfg=init_cfg)
        sides = (img_size,) * 2 if isinstance(img_size, int) else img_size
        self.grid = tuple(side // patch_size for side in sides)
        self.patch_size = patch_size
        self.out_indices = tuple(out_indices)
        self.with_cp = with_cp
        kind: Any = dict(dtype=getattr(torch, dtype) if dtype else None)
        self.patch_embed = PatchEmbed(
            None,
            patch_size,
            embed_dim=embed_dims,
            strict_img_size=False,
            **kind,
        )
        tokens = 1 + self.grid[0] * self.grid[1]
        self.cls_token = nn.Parameter(torch.zeros(1, 1, embed_dims, **kind))
        self.pos_embed = nn.Parameter(
            torch.zeros(1, tokens, embed_dims, **kind)
        )
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
            **kind,
        )
        rates = [drop_path_rate * i / max(1, depth - 1) for i in range(depth)]
        built = rates[: self.out_indices[-1] + 1]
        self.blocks = nn.ModuleList(block(drop_path=rate) for rate in built)
        self.pyramid = FeaturePyramid(embed_dims) if pyramid else None

    def forward(self, inputs: Tensor) -> tuple[Tensor, ...]:
        """Return contiguous features, in float32 at least.

        Args:
            inputs: Images, shape ``(N, 3, H, W)``.

        Returns:
            With the pyramid four of shape ``(N, C, s · h, s · w)`` for
            s = 4, 2, 1, 1/2, where ``(h, w)`` is the grid of patches; else
            one of ``(N, C, h, w)`` per index.
        """
        images = self._whole_patches(inputs).to(self.pos_embed.dtype)
        grid = tuple(side // self.patch_size for side in images.shape[-2:])
        x = self.patch_embed(images)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1)
        x = x + self._positions(grid)
        features: Sequence[Tensor] = []
        for index, block in enumerate(self.blocks):
            x = self._run_block(block, x)
            if index in self.out_indices:
                image = x[:, 1:].transpose(1, 2).unflatten(2, grid)
                features = [*features, image.contiguous()]
        if self.pyramid is not None:
            features = self.pyramid(features)
        return tuple(
            feature.to(
                torch.promote_types(feature.dtype, torch.float32)
            ).contiguous()
            for feature in features
        )

    def _whole_patches(self, images: Tensor) -> Tensor:
        """Resize images whose sides are no multiples of the patch."""
        patch = self.patch_size
        size = [-(-side // patch) * patch for side in images.shape[-2:]]
        if size == list(images.shape[-2:]):
            return images
        return F.interpolate(
            images, size=size, mode='bilinear', align_corners=False
        )

    def _positions(self, grid: tuple[int, ...]) -> Tensor:
        """Return the position embeddings for a grid of patches."""
        if grid == self.grid:
            return self.pos_embed
        dtype = self.pos_embed.dtype
        wide = torch.promote_types(dtype, torch.float32)
        image = self.pos_embed[:, 1:].to(wide).unflatten(1, self.grid)
        image = F.interpolate(
            image.permute(0, 3, 1, 2),
            size=grid,
            mode='bicubic',
            align_corners=False,
        )
        moved = image.flatten(2).transpose(1, 2).to(dtype)
        return torch.cat([self.pos_embed[:, :1], moved], dim=1)

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
