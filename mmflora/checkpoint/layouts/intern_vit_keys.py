"""Key layouts of published InternViT weights, converted to timm's.

The InternViT of mmflora is built of timm's blocks and has timm's keys, which
also are those of the authors' ``.pth`` files.  The other layouts name the
same tensors otherwise:

============ ============================== =================================
part         remote code (Hugging Face)     transformers' own class
============ ============================== =================================
class token  embeddings.class_embedding     embeddings.cls_token
positions    embeddings.position_embedding  embeddings.position_embeddings
patches      embeddings.patch_embedding     embeddings.patch_embeddings.
                                            projection
blocks       encoder.layers.N               encoder.layer.N
norms        norm1, norm2                   layernorm_before, layernorm_after
qkv          attn.qkv                       attention.{q,k,v}_proj
projection   attn.proj                      attention.projection_layer
q, k norms   attn.{q,k}_norm                attention.{q,k}_norm
layer scales ls1, ls2                       lambda_1, lambda_2
============ ============================== =================================

Chat models put a prefix before them and a language model beside them.
"""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from timm.layers import resample_abs_pos_embed, resample_patch_embed
from torch import Tensor

# What stands before a vision model's keys within a larger model, and is
# searched for in this order.
_WITHIN = (
    'model.vision_tower.',
    'vision_tower.',
    'model.vision_model.',
    'vision_model.',
)
_PATCHES = r'embeddings\.(patch_embedding|patch_embeddings\.projection)\.'
# Applied in order to each key.
_RENAMES = (
    (r'^embeddings\.(class_embedding|cls_token)$', 'cls_token'),
    (r'^embeddings\.position_embeddings?$', 'pos_embed'),
    (rf'^{_PATCHES}', 'patch_embed.proj.'),
    (r'^encoder\.layers?\.(\d+)\.', r'blocks.\1.'),
    (r'^(blocks\.\d+)\.attention\.projection_layer\.', r'\1.attn.proj.'),
    (r'^(blocks\.\d+)\.attention\.', r'\1.attn.'),
    (r'^(blocks\.\d+)\.layernorm_before\.', r'\1.norm1.'),
    (r'^(blocks\.\d+)\.layernorm_after\.', r'\1.norm2.'),
    (r'^(blocks\.\d+)\.(?:ls|lambda_)([12])$', r'\1.ls\2.gamma'),
    # The pyramid of the authors' own segmentation models.
    (r'^up([12])\.', r'pyramid.up\1.'),
)
_QKV = re.compile(r'(blocks\.\d+\.attn)\.([qkv])_proj\.(weight|bias)')
# Keys of published files without use for dense features: what pooled them
# for contrastive training, and the norm of a classifier.
UNUSED_KEYS = (
    r'clip_projector\..*',
    r'(fc_)?norm\..*',
    r'layernorm\..*',
    r'logit_scale',
    r'embeddings\.mask_token',
)


@dataclass(frozen=True)
class Place:
    """Where a tensor of a file belongs in the model.

    Attributes:
        key: The model's key.
        part: ``'q'``, ``'k'`` or ``'v'`` for a third of its rows; ``''`` for
            the whole.
    """

    key: str
    part: str = ''

    def __str__(self) -> str:
        """Return the key, with the part in brackets."""
        return f'{self.key}[{self.part}]' if self.part else self.key

    def of(self, parameter: Tensor) -> Tensor:
        """Return the part of the model's parameter that is meant."""
        if not self.part:
            return parameter
        return parameter.chunk(3)['qkv'.index(self.part)]


def intern_vit_places(keys: Iterable[str]) -> dict[str, Place]:
    """Say where each tensor of a file belongs, whatever its layout.

    Returns:
        Key of the file to place.  Keys of a chat model's other parts are
        left out; one that no layout knows stays as it is, for the caller to
        report.
    """
    names = list(keys)
    prefix = next(
        (p for p in _WITHIN if any(name.startswith(p) for name in names)), ''
    )
    return {
        name: _place(name.removeprefix(prefix))
        for name in names
        if name.startswith(prefix)
    }


def _place(key: str) -> Place:
    for pattern, replacement in _RENAMES:
        key = re.sub(pattern, replacement, key)
    split = _QKV.fullmatch(key)
    if split:
        return Place(f'{split[1]}.qkv.{split[3]}', split[2])
    return Place(key)


def expected_shapes(
    shapes: Mapping[str, tuple[int, ...]], places: Iterable[Place]
) -> dict[str, tuple[int, ...]]:
    """Return a model's shapes by place, split where the file splits them.

    Returns:
        Shapes by the places' names.
    """
    split = {place.key for place in places if place.part}
    expected: dict[str, tuple[int, ...]] = {}
    for key, shape in shapes.items():
        if key in split:
            third = (shape[0] // 3, *shape[1:])
            expected.update({str(Place(key, p)): third for p in 'qkv'})
        else:
            expected[key] = tuple(shape)
    return expected


def resized_shape(
    key: str, offered: tuple[int, ...], wanted: tuple[int, ...]
) -> tuple[int, ...]:
    """Return the shape that a file's tensor has after resizing.

    Position embeddings of a square grid and patch kernels can be resized;
    anything else stays as it is.

    Args:
        key: The model's key.
        offered: The tensor's shape in the file.
        wanted: Its shape in the model.
    """
    if key == 'pos_embed' and len(offered) == 3 and offered[1] > 1:
        square = math.isqrt(offered[1] - 1) ** 2 == offered[1] - 1
        return (offered[0], wanted[1], offered[2]) if square else offered
    if key == 'patch_embed.proj.weight' and len(offered) == 4:
        return (*offered[:2], *wanted[2:])
    return offered


def resized(key: str, value: Tensor, grid: tuple[int, int]) -> Tensor:
    """Resize a file's tensor, in float32 at least.

    Args:
        key: ``'pos_embed'`` or ``'patch_embed.proj.weight'``.
        value: Its value in the file: ``(1, 1 + h · w, C)`` of a square grid,
            or ``(C, 3, h, w)``.
        grid: Rows and columns of the model's grid, or of its kernel.
    """
    wide = value.to(torch.promote_types(value.dtype, torch.float32))
    if key == 'pos_embed':
        # As the published models do it: no antialiasing.
        return resample_abs_pos_embed(wide, list(grid), antialias=False)
    # The kernel whose response to a resized patch comes nearest to the first.
    return resample_patch_embed(wide, list(grid))
