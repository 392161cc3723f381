"""What most likely is wrong with a file whose keys do not fit a model."""

import re

from ..keys import Shapes

# How the keys of a family look, and the models for it.
_FAMILIES = {
    r'storage_tokens': 'a ViT of DINOv3 (vit_…_patch16_dinov3)',
    r'blocks\.\d+\.gamma_1': 'BEiT, EVA or DINOv3 (vit_…_patch16_dinov3)',
    r'(.*\.)?rel_pos_h': 'SAM (samvit_…)',
    r'blocks\.\d+\.ls1\.gamma': 'DINOv2 (vit_…_patch14_dinov2, …_reg4_dinov2)',
    r'.*relative_position_bias_table': 'Swin or BEiT',
    r'(stages\.\d+\..*dw.*|downsample_layers\..*)': 'ConvNeXt (convnext_…)',
    r'blocks\.\d+\.attn\.qkv\.weight': 'a plain ViT (vit_…, deit_…)',
}
# Tensors whose first or last dimension is the width.
_WIDTHS = {'patch_embed.proj.weight': 0, 'stem.0.weight': 0, 'cls_token': -1}


def mismatch_hints(offered: Shapes, expected: Shapes) -> str:
    """Return sentences that tell a user which model or file to take.

    Args:
        offered: The file's shapes, under the model's keys as far as known.
        expected: The model's shapes.

    Returns:
        Lines to follow a list of what does not fit, or ``''``.
    """
    hints = [*_registers(offered, expected), *_size(offered, expected)]
    common = offered.keys() & expected.keys()
    if len(common) < len(expected) / 2:
        family = next(
            (
                name
                for pattern, name in _FAMILIES.items()
                if any(re.fullmatch(pattern, key) for key in offered)
            ),
            None,
        )
        hints.append(
            f'Only {len(common)} of {len(expected)} keys are in the file: it '
            'is of another family'
            + (f', it seems {family}.' if family else '.')
        )
    return ''.join(f'\n  {hint}' for hint in hints)


def _registers(offered: Shapes, expected: Shapes) -> list[str]:
    theirs, ours = offered.get('reg_token'), expected.get('reg_token')
    if ours and not theirs:
        return [
            f'The model has {ours[1]} registers, the file none: take a '
            'model_name without them, or the file with them.'
        ]
    if theirs and not ours:
        return [
            f'The file has {theirs[1]} registers, the model none: take a '
            "model_name with them, such as one with 'reg4'."
        ]
    return []


def _size(offered: Shapes, expected: Shapes) -> list[str]:
    for key, dim in _WIDTHS.items():
        if offered.get(key) and expected.get(key):
            theirs, ours = offered[key][dim], expected[key][dim]
            if theirs != ours:
                return [
                    f'The file is of width {theirs}, the model of {ours}: '
                    'take the model_name of its size.'
                ]
    theirs, ours = _depth(offered), _depth(expected)
    if 0 < theirs < ours:
        return [f'The file has {theirs} blocks, the model {ours}.']
    return []


def _depth(shapes: Shapes) -> int:
    found = (re.match(r'blocks\.(\d+)\.', key) for key in shapes)
    return 1 + max((int(match[1]) for match in found if match), default=-1)
