"""InternViT for OpenMMLab, without any other package.

Chen et al., "InternVL: Scaling up Vision Foundation Models and Aligning for
Generic Visual-Linguistic Tasks" (2023).  A copy of this file belongs beside a
config that names ``PlainInternViT``, with one of ``pyramid_features.py``; the
config loads both from its own folder.  They need torch, timm and mmengine
alone, so that a merged model runs wherever OpenMMLab does.  The blocks are
timm's, under timm's keys, with RMS norms of float32 statistics, q and k norms
over the full width and no norm at the end.  Sizes default to InternViT-6B's;
any other works.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.model import BaseModule
from mmengine.registry import MODELS
from timm.layers import Attention, PatchEmbed
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .pyramid_features import SimplePyramid

DTYPES = {
    'float32': torch.float32,
    'bfloat16': torch.bfloat16,
    'float16': torch.float16,
}


@torch.compiler.assume_constant_result
def _knows_autocast(device_type: str) -> bool:
    """Return whether a device has autocast; the compiler cannot look in."""
    return torch.amp.is_autocast_available(device_type)


def _without_autocast(device_type: str) -> AbstractContextManager[object]:
    if _knows_autocast(device_type):  # not on meta
        return torch.autocast(device_type, enabled=False)
    return nullcontext()


class RMSNorm(nn.RMSNorm):
    """RMS norm with float32 statistics, whose output has its input's type.

    Under autocast the input often is narrower than the weight, for which
    PyTorch has no fused kernel; and the residual stream of a bfloat16 base
    stays bfloat16.
    """

    # Its output costs about as much to rebuild as to store; for adapters.
    rebuilt_by_adapters = True

    def forward(self, x: Tensor) -> Tensor:
        """Normalize ``(..., C)``."""
        weight = self.weight.to(x.dtype)
        with _without_autocast(x.device.type):
            return F.rms_norm(x, self.normalized_shape, weight, self.eps)


class FullWidthAttention(Attention):
    """timm's attention with q and k norms over all heads together.

    timm norms each head by itself; InternViT norms the full width before it
    splits the heads.  Arguments are timm's.
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


class HalfRecomputedBlock(Block):
    """timm's block, whose second branch is computed again going backward."""

    def forward(
        self,
        x: Tensor,
        attn_mask: Tensor | None = None,
        is_causal: bool = False,
    ) -> Tensor:
        """Compute ``(N, L, C)``."""
        if not torch.is_grad_enabled():
            return super().forward(x, attn_mask, is_causal)
        options = dict(attn_mask=attn_mask, is_causal=is_causal)
        branch = self.attn(self.norm1(x), **options)
        x = x + self.drop_path1(self.ls1(branch))
        return x + checkpoint(self._mlp, x, use_reentrant=False)

    def _mlp(self, x: Tensor) -> Tensor:
        return self.drop_path2(self.ls2(self.mlp(self.norm2(x))))


# Several configs may each have a copy of this file.
@MODELS.register_module(force=True)
class PlainInternViT(BaseModule):
    """An InternViT backbone with a feature pyramid, for dense prediction.

    Args:
        img_size: Height and width of the images (one number for both) that
            the position embeddings are kept for; images of any other size
            work too.
        patch_size: Side of a patch.
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
        init_cfg: As for any module of MMEngine.

    Raises:
        ValueError: If an option is not one of those above.
    """

    with_cp_values = (True, False, 'mlp')

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
        indices = tuple(out_indices)
        _check_options(sides, patch_size, indices, depth, pyramid)
        _check_choice('with_cp', with_cp, self.with_cp_values)
        _check_choice('dtype', dtype, (None, *DTYPES))
        self.out_indices = indices
        self.with_cp = with_cp
        self.patch_size = (patch_size, patch_size)
        self.grid_size = (sides[0] // patch_size, sides[1] // patch_size)
        self.depth = depth
        built = indices[-1] + 1
        rates = torch.linspace(0, drop_path_rate, depth, device='cpu').tolist()
        kind: dict[str, Any] = dict(dtype=DTYPES[dtype] if dtype else None)
        block = partial(
            HalfRecomputedBlock if with_cp == 'mlp' else Block,
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
        blocks = [partial(block, drop_path=rate) for rate in rates[:built]]
        self._build_trunk(blocks, embed_dims, kind)
        # Strides 4, 8, 16 and 32 of a transformer of stride 16, as UperNet
        # wants them; it stands in no checkpoint of a pre-trained backbone.
        self.pyramid = (
            SimplePyramid([embed_dims] * 4, None, halve_channels=False)
            if pyramid
            else None
        )
        self.out_channels = (embed_dims,) * len(indices)

    def _build_trunk(
        self, blocks: list[Any], width: int, kind: dict[str, Any]
    ) -> None:
        """Build what a file of pre-trained weights holds, drawn at random."""
        self.patch_embed = PatchEmbed(
            None,
            self.patch_size[0],
            embed_dim=width,
            strict_img_size=False,
            **kind,
        )
        tokens = 1 + self.grid_size[0] * self.grid_size[1]
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width, **kind))
        self.pos_embed = nn.Parameter(torch.zeros(1, tokens, width, **kind))
        self.blocks = nn.ModuleList(block() for block in blocks)
        for parameter in (self.cls_token, self.pos_embed):
            nn.init.trunc_normal_(parameter, std=0.02)
        for module in self.blocks.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

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
        patch = self.patch_size[0]
        grid = (-(-inputs.shape[-2] // patch), -(-inputs.shape[-1] // patch))
        size = (grid[0] * patch, grid[1] * patch)
        if size != tuple(inputs.shape[-2:]):
            # Heads scale their output to the image, so that features must
            # cover it exactly: padding would shift them.
            inputs = F.interpolate(
                inputs, size=size, mode='bilinear', align_corners=False
            )
        x = self.patch_embed(inputs.to(self.pos_embed.dtype))
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1)
        x = x + resize_positions(self.pos_embed, self.grid_size, grid)
        features = []
        for index, block in enumerate(self.blocks):
            x = self._run_block(block, x)
            if index in self.out_indices:
                image = x[:, 1:].transpose(1, 2).unflatten(2, grid)
                features.append(image.contiguous())
        if self.pyramid is not None:
            features = list(self.pyramid(features))
        # Heads take no lower precision, with autocast or without.
        return tuple(
            feature.to(
                torch.promote_types(feature.dtype, torch.float32)
            ).contiguous()
            for feature in features
        )

    def _run_block(self, block: nn.Module, x: Tensor) -> Tensor:
        if self.with_cp is True and torch.is_grad_enabled():
            return checkpoint(block, x, use_reentrant=False)
        return block(x)


def resize_positions(
    positions: Tensor, old: tuple[int, int], new: tuple[int, int]
) -> Tensor:
    """Resize position embeddings by bicubic interpolation.

    As the published models do it: no antialiasing, corners not aligned, the
    class token's embedding apart.

    Args:
        positions: Shape ``(1, 1 + old[0] · old[1], C)``.
        old: Rows and columns of their grid.
        new: Rows and columns wanted.

    Returns:
        Shape ``(1, 1 + new[0] · new[1], C)``, of the same type; computed in
        float32 at least.
    """
    if tuple(old) == tuple(new):
        return positions
    wide = torch.promote_types(positions.dtype, torch.float32)
    image = positions[:, 1:].to(wide).unflatten(1, old).permute(0, 3, 1, 2)
    image = F.interpolate(image, size=new, mode='bicubic', align_corners=False)
    moved = image.flatten(2).transpose(1, 2).to(positions.dtype)
    return torch.cat([positions[:, :1], moved], dim=1)


def _check_options(
    sides: Sequence[int],
    patch: int,
    indices: tuple[int, ...],
    depth: int,
    pyramid: bool,
) -> None:
    """Check the sizes of images and the blocks whose outputs are wanted."""
    if len(sides) != 2 or any(side < patch or side % patch for side in sides):
        raise ValueError(
            f'InternViT: `img_size` is a multiple of patch_size={patch}, or '
            f'two (height, width), got {tuple(sides)}.'
        )
    if not indices or list(indices) != sorted(
        set(indices) & set(range(depth))
    ):
        raise ValueError(
            'InternViT: `out_indices` are ascending blocks out of '
            f'0 … {depth - 1}, got {indices}.'
        )
    if pyramid and len(indices) != 4:
        raise ValueError(
            'InternViT: the pyramid has four levels, so `out_indices` are '
            f'four blocks, got {indices}. Set pyramid=False for others.'
        )


def _check_choice(name: str, value: Any, allowed: Sequence[Any]) -> None:
    if value not in allowed:
        raise ValueError(
            f'InternViT: `{name}` is one of '
            f'{", ".join(map(repr, allowed))}, got {value!r}.'
        )
