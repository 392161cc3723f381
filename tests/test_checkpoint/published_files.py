"""Small files of weights with the keys that their publishers use."""

import torch

SWIN = dict(embed_dims=8, depths=(1, 2, 1, 1), num_heads=(1, 2, 2, 2))


def random_tensors(shapes, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {
        key: torch.randn(shape, generator=generator) * 0.3
        for key, shape in shapes.items()
    }


def _layer(name, out, inner):
    return {f'{name}.weight': (out, inner), f'{name}.bias': (out,)}


def _norm(name, width):
    return {f'{name}.weight': (width,), f'{name}.bias': (width,)}


def microsoft_swin(window=4, channels=3):
    """Return a classifier as in github.com/microsoft/Swin-Transformer."""
    width = SWIN['embed_dims']
    shapes = {
        'patch_embed.proj.weight': (width, channels, 4, 4),
        'patch_embed.proj.bias': (width,),
        **_norm('patch_embed.norm', width),
    }
    buffers = {}
    for i, depth in enumerate(SWIN['depths']):
        size = width * 2**i
        for j in range(depth):
            name = f'layers.{i}.blocks.{j}'
            table = ((2 * window - 1) ** 2, SWIN['num_heads'][i])
            shapes |= {
                **_norm(f'{name}.norm1', size),
                f'{name}.attn.relative_position_bias_table': table,
                **_layer(f'{name}.attn.qkv', 3 * size, size),
                **_layer(f'{name}.attn.proj', size, size),
                **_norm(f'{name}.norm2', size),
                **_layer(f'{name}.mlp.fc1', 4 * size, size),
                **_layer(f'{name}.mlp.fc2', size, 4 * size),
            }
            index = torch.zeros(window**2, window**2, dtype=torch.long)
            buffers[f'{name}.attn.relative_position_index'] = index
            if j % 2:
                mask = torch.zeros(4, window**2, window**2)
                buffers[f'{name}.attn_mask'] = mask
        if i < 3:
            name = f'layers.{i}.downsample'
            shapes[f'{name}.reduction.weight'] = (2 * size, 4 * size)
            shapes |= _norm(f'{name}.norm', 4 * size)
    shapes |= _norm('norm', size) | _layer('head', 10, size)
    return random_tensors(shapes) | buffers


def timm_vit(grid=4, depth=3, width=16, patch=16, channels=3, prefix=1):
    """Return a vision transformer as in timm, DINO, MAE and DeiT."""
    shapes = {
        'cls_token': (1, 1, width),
        'pos_embed': (1, prefix + grid**2, width),
        'patch_embed.proj.weight': (width, channels, patch, patch),
        'patch_embed.proj.bias': (width,),
    }
    for i in range(depth):
        name = f'blocks.{i}'
        shapes |= {
            **_norm(f'{name}.norm1', width),
            **_layer(f'{name}.attn.qkv', 3 * width, width),
            **_layer(f'{name}.attn.proj', width, width),
            **_norm(f'{name}.norm2', width),
            **_layer(f'{name}.mlp.fc1', 4 * width, width),
            **_layer(f'{name}.mlp.fc2', width, 4 * width),
        }
    return random_tensors(shapes | _norm('norm', width))


def dino(state, ranks=True):
    """Return DINO's full checkpoint: two networks, each with its head."""
    head = _layer('head.mlp.0', 4, 16) | {'head.last_layer.weight_v': (9, 4)}
    whole = {f'backbone.{key}': value for key, value in state.items()}
    whole |= random_tensors(head)
    module = {f'module.{key}': value for key, value in whole.items()}
    other = {key: value + 1 for key, value in module.items()}
    return dict(
        student=other, teacher=module if ranks else whole, epoch=3, args=None
    )


def mae(state, decoder):
    """Return MAE's file, of the encoder or with the decoder."""
    extra = {
        'mask_token': (1, 1, 8),
        'decoder_pos_embed': (1, 17, 8),
        **_layer('decoder_embed', 8, 16),
        **_norm('decoder_blocks.0.norm1', 8),
        **_norm('decoder_norm', 8),
        **_layer('decoder_pred', 4, 8),
    }
    return dict(model=state | random_tensors(extra if decoder else {}))


def mmseg_vit(state):
    """Return what mmsegmentation's vit2mmseg.py makes of timm's weights."""
    renamed = {}
    for key, value in state.items():
        for old, new in (
            ('blocks.', 'layers.'),
            ('patch_embed.proj', 'patch_embed.projection'),
            ('.norm', '.ln'),
            ('attn.qkv.', 'attn.attn.in_proj_'),
            ('attn.proj', 'attn.attn.out_proj'),
            ('mlp.fc1', 'ffn.layers.0.0'),
            ('mlp.fc2', 'ffn.layers.1'),
        ):
            key = key.replace(old, new)
        renamed['ln1' + key[4:] if key.startswith('norm.') else key] = value
    return renamed


def mmseg_mae(state):
    """Return what mmsegmentation's beit2mmseg.py makes of MAE's weights."""
    renamed = {}
    for key, value in state.items():
        if key.startswith('patch_embed'):
            new = key.replace('patch_embed.proj', 'patch_embed.projection')
            renamed[new] = value
        if key.startswith('blocks'):
            key = key.replace('blocks', 'layers')
            for old, new in (
                ('norm', 'ln'),
                ('mlp.fc1', 'ffn.layers.0.0'),
                ('mlp.fc2', 'ffn.layers.1'),
            ):
                key = key.replace(old, new)
        renamed[key] = value
    return renamed


def mmseg_beit(window=4, depth=3, width=16, patch=16):
    """Return what mmsegmentation's beit2mmseg.py makes of BEiT's weights."""
    shapes = {
        'cls_token': (1, 1, width),
        'mask_token': (1, 1, width),
        'patch_embed.projection.weight': (width, 3, patch, patch),
        'patch_embed.projection.bias': (width,),
        # The tool keeps these beside those that it renames.
        'patch_embed.proj.weight': (width, 3, patch, patch),
        'patch_embed.proj.bias': (width,),
    }
    buffers = {}
    for i in range(depth):
        name = f'layers.{i}'
        table = ((2 * window - 1) ** 2 + 3, 2)
        shapes |= {
            f'{name}.gamma_1': (width,),
            f'{name}.gamma_2': (width,),
            **_norm(f'{name}.ln1', width),
            f'{name}.attn.q_bias': (width,),
            f'{name}.attn.v_bias': (width,),
            f'{name}.attn.relative_position_bias_table': table,
            f'{name}.attn.qkv.weight': (3 * width, width),
            **_layer(f'{name}.attn.proj', width, width),
            **_norm(f'{name}.ln2', width),
            **_layer(f'{name}.ffn.layers.0.0', 4 * width, width),
            **_layer(f'{name}.ffn.layers.1', width, 4 * width),
        }
        side = window**2 + 1
        buffers[f'{name}.attn.relative_position_index'] = torch.zeros(
            side, side, dtype=torch.long
        )
    shapes |= _norm('norm', width) | _norm('fc_norm', width)
    shapes |= _layer('head', 10, width) | _layer('lm_head', 10, width)
    return random_tensors(shapes) | buffers
