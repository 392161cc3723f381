"""Small files of plain transformers with the keys of their publishers."""

import torch
from published_files import random_tensors


def _layer(name, out, inner, bias=True):
    shapes = {f'{name}.weight': (out, inner)}
    return shapes | ({f'{name}.bias': (out,)} if bias else {})


def _norm(name, width):
    return {f'{name}.weight': (width,), f'{name}.bias': (width,)}


def _mlp(name, width, hidden, gated=False, packed=False):
    if packed:
        return {
            **_layer(f'{name}.w12', 2 * hidden, width),
            **_layer(f'{name}.w3', width, hidden),
        }
    if gated:
        return {
            **_layer(f'{name}.w1', hidden, width),
            **_layer(f'{name}.w2', hidden, width),
            **_layer(f'{name}.w3', width, hidden),
        }
    return {
        **_layer(f'{name}.fc1', hidden, width),
        **_layer(f'{name}.fc2', width, hidden),
    }


def meta_dinov2(registers=0, packed=False, chunks=0, grid=4, width=24):
    """Return what github.com/facebookresearch/dinov2 publishes."""
    shapes = {
        'cls_token': (1, 1, width),
        'pos_embed': (1, 1 + grid**2, width),
        **({'register_tokens': (1, registers, width)} if registers else {}),
        'mask_token': (1, width),
        'patch_embed.proj.weight': (width, 3, 14, 14),
        'patch_embed.proj.bias': (width,),
    }
    for i in range(3):
        name = f'blocks.{i // chunks}.{i}' if chunks else f'blocks.{i}'
        hidden = 8 * width // 3 if packed else 4 * width
        shapes |= {
            **_norm(f'{name}.norm1', width),
            **_layer(f'{name}.attn.qkv', 3 * width, width),
            **_layer(f'{name}.attn.proj', width, width),
            f'{name}.ls1.gamma': (width,),
            **_norm(f'{name}.norm2', width),
            **_mlp(f'{name}.mlp', width, hidden, packed=packed),
            f'{name}.ls2.gamma': (width,),
        }
    return random_tensors(shapes | _norm('norm', width))


def hugging_face_dinov2(registers=0, packed=False, grid=4, width=24):
    """Return what huggingface.co/facebook/dinov2-… holds."""
    shapes = {
        'embeddings.cls_token': (1, 1, width),
        'embeddings.mask_token': (1, width),
        'embeddings.position_embeddings': (1, 1 + grid**2, width),
        'embeddings.patch_embeddings.projection.weight': (width, 3, 14, 14),
        'embeddings.patch_embeddings.projection.bias': (width,),
    }
    if registers:
        shapes['embeddings.register_tokens'] = (1, registers, width)
    for i in range(3):
        name = f'encoder.layer.{i}'
        attention = f'{name}.attention.attention'
        shapes |= {
            **_norm(f'{name}.norm1', width),
            **_layer(f'{attention}.query', width, width),
            **_layer(f'{attention}.key', width, width),
            **_layer(f'{attention}.value', width, width),
            **_layer(f'{name}.attention.output.dense', width, width),
            f'{name}.layer_scale1.lambda1': (width,),
            **_norm(f'{name}.norm2', width),
            f'{name}.layer_scale2.lambda1': (width,),
        }
        if packed:
            shapes |= _layer(f'{name}.mlp.weights_in', 16 * width // 3, width)
            shapes |= _layer(f'{name}.mlp.weights_out', width, 8 * width // 3)
        else:
            shapes |= _mlp(f'{name}.mlp', width, 4 * width)
    return random_tensors(shapes | _norm('layernorm', width))


def meta_dinov3(gated=False, biases=False, width=16):
    """Return what github.com/facebookresearch/dinov3 publishes of ViTs."""
    shapes = {
        'cls_token': (1, 1, width),
        'storage_tokens': (1, 4, width),
        'mask_token': (1, width),
        'patch_embed.proj.weight': (width, 3, 16, 16),
        'patch_embed.proj.bias': (width,),
    }
    for i in range(3):
        name = f'blocks.{i}'
        shapes |= {
            **_norm(f'{name}.norm1', width),
            **_layer(f'{name}.attn.qkv', 3 * width, width),
            **_layer(f'{name}.attn.proj', width, width),
            f'{name}.ls1.gamma': (width,),
            **_norm(f'{name}.norm2', width),
            **_mlp(f'{name}.mlp', width, 4 * width, gated=gated),
            f'{name}.ls2.gamma': (width,),
        }
    state = random_tensors(shapes | _norm('norm', width))
    # Two heads of eight channels: two periods for each axis.
    state['rope_embed.periods'] = torch.tensor([1.0, 10.0]).bfloat16()
    mask = torch.ones(3 * width)
    mask[width : 2 * width] = 0
    for i in range(3):
        state[f'blocks.{i}.attn.qkv.bias_mask'] = mask.clone()
        if not biases:
            state[f'blocks.{i}.attn.qkv.bias'] = torch.zeros(3 * width)
    return state


def hugging_face_dinov3(gated=False, biases=False, width=16):
    """Return what huggingface.co/facebook/dinov3-vit… holds."""
    shapes = {
        'embeddings.cls_token': (1, 1, width),
        'embeddings.mask_token': (1, 1, width),
        'embeddings.register_tokens': (1, 4, width),
        'embeddings.patch_embeddings.weight': (width, 3, 16, 16),
        'embeddings.patch_embeddings.bias': (width,),
    }
    for i in range(3):
        name = f'layer.{i}'
        shapes |= {
            **_norm(f'{name}.norm1', width),
            **_layer(f'{name}.attention.q_proj', width, width),
            **_layer(f'{name}.attention.k_proj', width, width, bias=False),
            **_layer(f'{name}.attention.v_proj', width, width),
            **_layer(f'{name}.attention.o_proj', width, width),
            f'{name}.layer_scale1.lambda1': (width,),
            **_norm(f'{name}.norm2', width),
            **_layer(f'{name}.mlp.up_proj', 4 * width, width),
            **_layer(f'{name}.mlp.down_proj', width, 4 * width),
            f'{name}.layer_scale2.lambda1': (width,),
        }
        if gated:
            shapes |= _layer(f'{name}.mlp.gate_proj', 4 * width, width)
    state = random_tensors(shapes | _norm('norm', width))
    if not biases:
        for key in state:
            if key.endswith(('q_proj.bias', 'v_proj.bias')):
                state[key] = torch.zeros(width)
    return state


def segment_anything(grid=4, width=16):
    """Return what github.com/facebookresearch/segment-anything publishes."""
    shapes = {
        'pos_embed': (1, grid, grid, width),
        'patch_embed.proj.weight': (width, 3, 16, 16),
        'patch_embed.proj.bias': (width,),
        'neck.0.weight': (256, width, 1, 1),
        **_norm('neck.1', 256),
        'neck.2.weight': (256, 256, 3, 3),
        **_norm('neck.3', 256),
    }
    for i in range(3):
        name = f'blocks.{i}'
        # Windows of three, but for the last block.
        reach = 2 * (grid if i == 2 else 3) - 1
        shapes |= {
            **_norm(f'{name}.norm1', width),
            f'{name}.attn.rel_pos_h': (reach, width // 2),
            f'{name}.attn.rel_pos_w': (reach, width // 2),
            **_layer(f'{name}.attn.qkv', 3 * width, width),
            **_layer(f'{name}.attn.proj', width, width),
            **_norm(f'{name}.norm2', width),
            **_layer(f'{name}.mlp.lin1', 4 * width, width),
            **_layer(f'{name}.mlp.lin2', width, 4 * width),
        }
    whole = {f'image_encoder.{key}': shape for key, shape in shapes.items()}
    whole['prompt_encoder.no_mask_embed.weight'] = (1, 256)
    whole['mask_decoder.iou_token.weight'] = (1, 256)
    return random_tensors(whole)


def eva02(pretrained=True, grid=4, width=24):
    """Return what github.com/baaivision/EVA publishes of EVA-02 B and L."""
    hidden = int(width * 4 * 2 / 3)
    shapes = {
        'cls_token': (1, 1, width),
        'pos_embed': (1, 1 + grid**2, width),
        'patch_embed.proj.weight': (width, 3, 14, 14),
        'patch_embed.proj.bias': (width,),
    }
    for i in range(3):
        name = f'blocks.{i}'
        shapes |= {
            **_norm(f'{name}.norm1', width),
            f'{name}.attn.q_bias': (width,),
            f'{name}.attn.v_bias': (width,),
            **_layer(f'{name}.attn.q_proj', width, width, bias=False),
            **_layer(f'{name}.attn.k_proj', width, width, bias=False),
            **_layer(f'{name}.attn.v_proj', width, width, bias=False),
            f'{name}.attn.rope.freqs_cos': (grid**2, width // 2),
            f'{name}.attn.rope.freqs_sin': (grid**2, width // 2),
            **_layer(f'{name}.attn.proj', width, width),
            **_norm(f'{name}.norm2', width),
            **_layer(f'{name}.mlp.w1', hidden, width),
            **_layer(f'{name}.mlp.w2', hidden, width),
            **_norm(f'{name}.mlp.ffn_ln', hidden),
            **_layer(f'{name}.mlp.w3', width, hidden),
        }
    shapes['rope.freqs_cos'] = shapes['rope.freqs_sin'] = (16, width // 2)
    if pretrained:
        shapes |= {'mask_token': (1, 1, width), **_norm('norm', width)}
        shapes |= _layer('lm_head', 8, width)
    else:
        shapes |= {**_norm('fc_norm', width), **_layer('head', 8, width)}
    return random_tensors(shapes)


DIMS = (8, 12, 16, 24)


def meta_dinov3_convnext():
    """Return what github.com/facebookresearch/dinov3 publishes of ConvNeXt."""
    shapes = {
        'downsample_layers.0.0.weight': (DIMS[0], 3, 4, 4),
        'downsample_layers.0.0.bias': (DIMS[0],),
        **_norm('downsample_layers.0.1', DIMS[0]),
    }
    for i, width in enumerate(DIMS):
        if i:
            name = f'downsample_layers.{i}'
            shapes |= _norm(f'{name}.0', DIMS[i - 1])
            shapes[f'{name}.1.weight'] = (width, DIMS[i - 1], 2, 2)
            shapes[f'{name}.1.bias'] = (width,)
        name = f'stages.{i}.0'
        shapes |= {
            f'{name}.gamma': (width,),
            f'{name}.dwconv.weight': (width, 1, 7, 7),
            f'{name}.dwconv.bias': (width,),
            **_norm(f'{name}.norm', width),
            **_layer(f'{name}.pwconv1', 4 * width, width),
            **_layer(f'{name}.pwconv2', width, 4 * width),
        }
    state = random_tensors(shapes | _norm('norm', DIMS[-1]))
    for name in ('weight', 'bias'):
        state[f'norms.3.{name}'] = state[f'norm.{name}']
    return state


def hugging_face_dinov3_convnext():
    """Return the same as huggingface.co/facebook/dinov3-convnext-… has it."""
    renamed = {}
    for key, value in meta_dinov3_convnext().items():
        parts = key.split('.')
        if parts[0] == 'norms':
            continue
        if parts[0] == 'norm':
            key = f'layer_norm.{parts[1]}'
        elif parts[0] == 'downsample_layers':
            key = '.'.join(['stages', parts[1], parts[0], *parts[2:]])
        else:
            key = '.'.join([*parts[:2], 'layers', *parts[2:]])
            for old, new in (
                ('dwconv', 'depthwise_conv'),
                ('pwconv', 'pointwise_conv'),
                ('.norm.', '.layer_norm.'),
            ):
                key = key.replace(old, new)
        renamed[key] = value
    return renamed
