"""DINOv2's published weights: Meta's, Hugging Face's and timm's keys.

============== ============================ =================================
part           Meta (``.pth``)              Hugging Face (after ``dinov2.``)
============== ============================ =================================
class token    cls_token                    embeddings.cls_token
registers      register_tokens              embeddings.register_tokens
positions      pos_embed                    embeddings.position_embeddings
patches        patch_embed.proj             embeddings.patch_embeddings.
                                            projection
blocks         blocks.N, or in training     encoder.layer.N
               blocks.CHUNK.N
qkv            attn.qkv                     attention.attention.{query,…}
projection     attn.proj                    attention.output.dense
layer scales   ls1.gamma                    layer_scale1.lambda1
MLP of ViT-g   mlp.w12, mlp.w3              mlp.weights_in, mlp.weights_out
last norm      norm                         layernorm
============== ============================ =================================

timm has Meta's keys, but for registers and the MLP of ViT-g.  Its models with
registers add the position of the class token to that token itself.
"""

import re
from collections.abc import Mapping

from torch import Tensor, nn

from .split_attention import join_qkv

CLASSES = ('VisionTransformer',)
_HUGGING_FACE = r'^(?:dinov2(?:_with_registers)?\.)?'
# Applied in order to each key.
_RENAMES = (
    (
        rf'{_HUGGING_FACE}embeddings\.'
        r'(cls_token|mask_token|register_tokens)$',
        r'\1',
    ),
    (rf'{_HUGGING_FACE}embeddings\.position_embeddings$', 'pos_embed'),
    (
        rf'{_HUGGING_FACE}embeddings\.patch_embeddings\.projection\.',
        'patch_embed.proj.',
    ),
    (rf'{_HUGGING_FACE}layernorm\.', 'norm.'),
    (rf'{_HUGGING_FACE}encoder\.layer\.(\d+)\.', r'blocks.\1.'),
    (r'\.attention\.(?:attention\.)?(q|k|v)(?:uery|ey|alue)\.', r'.attn.\1.'),
    (r'\.attention\.output\.dense\.', '.attn.proj.'),
    (r'\.layer_scale([12])\.lambda1$', r'.ls\1.gamma'),
    (r'\.mlp\.weights_in\.', '.mlp.w12.'),
    (r'\.mlp\.weights_out\.', '.mlp.w3.'),
    (r'^blocks\.\d+\.(\d+)\.', r'blocks.\1.'),
    (r'^register_tokens$', 'reg_token'),
)
_PACKED = ((r'\.mlp\.w12\.', '.mlp.fc1.'), (r'\.mlp\.w3\.', '.mlp.fc2.'))


def dinov2_to_timm(
    state: Mapping[str, Tensor], model: nn.Module
) -> dict[str, Tensor]:
    """Rename weights of DINOv2 to timm's keys, whatever their layout.

    Returns:
        The weights; a key that no layout knows stays as it is.
    """
    renamed = {_rename(key, _RENAMES): value for key, value in state.items()}
    if renamed.keys() == state.keys() and 'mask_token' not in state:
        return dict(state)  # timm's own, or of another family
    named = {_rename(key, _PACKED): v for key, v in renamed.items()}
    if (
        any(key.endswith('register_tokens') for key in state)
        and {
            'cls_token',
            'pos_embed',
        }
        <= named.keys()
    ):
        positions = named['pos_embed']
        named['cls_token'] = named['cls_token'] + positions[:, :1]
        named['pos_embed'] = positions[:, 1:]
    # Learned where patches were hidden, in training alone; by this key timm
    # would convert once more.
    named.pop('mask_token', None)
    return join_qkv(named)


def _rename(key: str, rules: tuple[tuple[str, str], ...]) -> str:
    for pattern, replacement in rules:
        key = re.sub(pattern, replacement, key)
    return key
