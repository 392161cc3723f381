"""DINOv3's published ViT weights: Meta's, Hugging Face's and timm's keys.

============== ============================ =================================
part           Meta (``.pth``)              Hugging Face
============== ============================ =================================
class token    cls_token                    embeddings.cls_token
registers      storage_tokens               embeddings.register_tokens
patches        patch_embed.proj             embeddings.patch_embeddings
blocks         blocks.N                     layer.N, model.layer.N
qkv            attn.qkv                     attention.{q,k,v}_proj
projection     attn.proj                    attention.o_proj
layer scales   ls1.gamma                    layer_scale1.lambda1
MLP            mlp.fc1, mlp.fc2             mlp.up_proj, mlp.down_proj
gated MLP      mlp.w1, mlp.w2, mlp.w3       mlp.{gate,up,down}_proj
last norm      norm                         norm
============== ============================ =================================

Meta's files also hold the periods of the rotary embeddings and, beside each
bias, a mask that is zero for keys.  timm's models compute the periods, have no
bias of keys, and two forms: without any (the published ones of most sizes are
zero) and, with names that end in ``_qkvb``, with those of queries and values.
timm's own filter renames the rest.
"""

import re
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from .split_attention import join_qkv

CLASSES = ('Eva',)
# Applied in order to each key.
_RENAMES = (
    (r'^embeddings\.(cls_token|mask_token)$', r'\1'),
    (r'^embeddings\.register_tokens$', 'storage_tokens'),
    (r'^embeddings\.patch_embeddings\.', 'patch_embed.proj.'),
    (r'^(?:model\.)?layer\.(\d+)\.', r'blocks.\1.'),
    (r'^(blocks\.\d+)\.attention\.([qkv])_proj\.', r'\1.attn.\2.'),
    (r'^(blocks\.\d+)\.attention\.o_proj\.', r'\1.attn.proj.'),
    (r'^(blocks\.\d+)\.layer_scale([12])\.lambda1$', r'\1.ls\2.gamma'),
)
_MLP = {'up_proj': 'fc1', 'down_proj': 'fc2'}
_GATED = {'gate_proj': 'w1', 'up_proj': 'w2', 'down_proj': 'w3'}


def dinov3_to_timm(
    state: Mapping[str, Tensor], model: nn.Module
) -> dict[str, Tensor]:
    """Rename weights of DINOv3 to Meta's keys, and check what timm leaves out.

    Raises:
        ValueError: If a bias or a period that the model lacks is no default.
    """
    named = join_qkv({_rename(key): value for key, value in state.items()})
    gated = any('.mlp.gate_proj.' in key for key in named)
    for name, own in (_GATED if gated else _MLP).items():
        named = {
            key.replace(f'.mlp.{name}.', f'.mlp.{own}.'): value
            for key, value in named.items()
        }
    if 'storage_tokens' not in named:
        return dict(state)  # timm's own, or of another family
    _check_periods(named, model)
    for key in [key for key in named if key.endswith('.attn.qkv.bias')]:
        mask = named.pop(f'{key}_mask', None)
        bias = named[key] if mask is None else named[key] * mask
        _check_bias(key, bias, model)
        named[key] = bias
        if not _has_biases(model):
            del named[key]
    return named


def _rename(key: str) -> str:
    for pattern, replacement in _RENAMES:
        key = re.sub(pattern, replacement, key)
    return key


def _has_biases(model: nn.Module) -> bool:
    return any(name.endswith('q_bias') for name, _ in model.named_parameters())


def _check_bias(key: str, bias: Tensor, model: nn.Module) -> None:
    queries, keys, values = bias.chunk(3)
    if keys.any():
        raise ValueError(
            f'{key}: the biases of the keys are not zero, and the model has '
            'none.'
        )
    if not _has_biases(model) and (queries.any() or values.any()):
        name = getattr(model, 'pretrained_cfg', {}).get('architecture', '…')
        raise ValueError(
            f'{key} is not zero, and the model has no such biases: take '
            f"model_name='{name}_qkvb'."
        )


def _check_periods(state: Mapping[str, Tensor], model: nn.Module) -> None:
    """Compare the periods of a file, kept in bfloat16, with the model's."""
    stored = state.get('rope_embed.periods')
    own = getattr(getattr(model, 'rope', None), 'periods', None)
    if stored is None or own is None or own.is_meta:
        return
    # Half a unit in the last of bfloat16's 8 bits, and float32's rounding.
    if stored.shape != own.shape or not torch.allclose(
        stored.float(), own.float().cpu(), rtol=2**-8, atol=0.0
    ):
        raise ValueError(
            f'rope_embed.periods are {stored.tolist()} in the file, and '
            f"{own.tolist()} in the model: the file is of another model's "
            'size.'
        )
