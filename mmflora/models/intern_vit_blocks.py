"""What InternViT needs beside timm's blocks: attention, norm, pyramid.

Chen et al., "InternVL: Scaling up Vision Foundation Models and Aligning for
Generic Visual-Linguistic Tasks" (2023).  Blocks, MLPs, layer scales and the
patch embedding are timm's.
"""

from typing import Any

import torch.nn.functional as F
from timm.layers import Attention, LayerNorm2d
from torch import Tensor, nn

from mmflora.adapters.precision import full_precision


class RMSNorm(nn.RMSNorm):
    """RMS norm with float32 statistics, whose output has its input's type.

    Under autocast the input often is narrower than the weight, for which
    PyTorch has no fused kernel; and the residual stream of a bfloat16 base
    stays bfloat16.
    """

    # Its output costs about as much to rebuild as to store.
    rebuilt_by_adapters = True

    def forward(self, x: Tensor) -> Tensor:
        """Normalise ``(..., C)``."""
        weight = self.weight.to(x.dtype)
        with full_precision(x.device.type):
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


class FeaturePyramid(nn.Module):
    """Four levels of a plain transformer's features, as UperNet wants them.

    Strides 4, 8, 16 and 32 of a transformer of stride 16 (3.5 to 28 of one of
    stride 14), by transposed convolutions up and max pooling down.  It stands
    in no checkpoint of a pre-trained backbone.

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
        for module in self.modules():
            if isinstance(module, nn.ConvTranspose2d):
                self._reset(module)

    @staticmethod
    def _reset(layer: nn.ConvTranspose2d) -> None:
        """Keep the signal's size: each output sees one position's channels."""
        nn.init.normal_(layer.weight, std=layer.in_channels**-0.5)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)

    def forward(self, features: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Rescale four features ``(N, C, H, W)`` by 4, 2, 1 and 1/2."""
        dtype = next(self.parameters()).dtype
        first, second, third, fourth = (x.to(dtype) for x in features)
        return self.up1(first), self.up2(second), third, self.down(fourth)


def as_image(tokens: Tensor, grid: tuple[int, int]) -> Tensor:
    """Return ``(N, 1 + h · w, C)`` as ``(N, C, h, w)``, the class token off.

    Args:
        tokens: The class token and one per patch.
        grid: ``(h, w)``.
    """
    image = tokens[:, 1:].transpose(1, 2).unflatten(2, grid)
    return image.contiguous()


def to_whole_patches(images: Tensor, patch: tuple[int, int]) -> Tensor:
    """Resize images whose sides are no multiples of the patch to the next.

    Heads scale their output to the image, so that features must cover it
    exactly: padding would shift them.

    Args:
        images: Shape ``(N, 3, H, W)``.
        patch: Height and width of a patch.
    """
    height, width = images.shape[-2:]
    size = (
        -(-height // patch[0]) * patch[0],
        -(-width // patch[1]) * patch[1],
    )
    if size == (height, width):
        return images
    return F.interpolate(
        images, size=size, mode='bilinear', align_corners=False
    )
