"""Published weights of plain vision transformers: DeiT, DINO, MAE, BEiT.

timm's classes convert the keys by timm's filter; mmseg's read what its tools
``vit2mmseg.py`` and ``beit2mmseg.py`` wrote.  What dense features do not use
is said here.
"""

from collections.abc import Mapping
from typing import Any

from timm.layers import resize_rel_pos_bias_table
from torch import Tensor

CLASSES = ('VisionTransformer', 'BEiT', 'MAE', 'Beit', 'Eva')
UNUSED_KEYS = (
    # The norm before a classifier, where the backbone has none.
    r'(norm|ln1|fc_norm)\.(weight|bias)',
    # What pre-training by masks or by comparison left.
    r'mask_token',
    r'decoder_.*',
    r'(lm|dino|ibot)_head\..*',
    # Left by beit2mmseg.py beside `patch_embed.projection`.
    r'patch_embed\.proj\.(weight|bias)',
    # A buffer that follows from the architecture.
    r'(.*\.)?relative_position_index',
)


def with_resized_tables(
    backbone: Any,
    state: Mapping[str, Tensor],
    shapes: Mapping[str, tuple[int, ...]],
) -> Mapping[str, Tensor]:
    """Resize relative position biases for mmseg's BEiT and MAE.

    The classes would do it by a function that SciPy has dropped; timm's
    follows the same rule, a geometric sequence of distances.
    """
    names = {kind.__name__ for kind in type(backbone).__mro__}
    window = getattr(backbone, 'patch_shape', None)
    if window is None or not names & {'BEiT', 'MAE'}:
        return state
    return {
        key: resize_rel_pos_bias_table(value, tuple(window), shapes[key])
        if key.endswith('relative_position_bias_table') and key in shapes
        else value
        for key, value in state.items()
    }
