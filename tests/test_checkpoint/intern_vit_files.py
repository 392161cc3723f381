"""InternViT weights in the layouts and files that their publishers use."""

import json

import torch
from safetensors.torch import save_file

# Two of three blocks would do; four make a pyramid.
SMALL = dict(
    img_size=56,
    embed_dims=24,
    depth=4,
    num_heads=3,
    mlp_ratio=2.0,
    out_indices=(0, 1, 2, 3),
)


def authors_layout(
    grid=4, depth=4, patch=14, dims=24, dtype=torch.float32, seed=0
):
    """Return random weights under the keys of the authors' own file."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(shape, generator=generator).mul_(0.3).to(dtype)

    state = {
        'cls_token': draw(1, 1, dims),
        'pos_embed': draw(1, grid * grid + 1, dims),
        'patch_embed.proj.weight': draw(dims, 3, patch, patch),
        'patch_embed.proj.bias': draw(dims),
    }
    for index in range(depth):
        block = {
            'norm1.weight': (dims,),
            'attn.qkv.weight': (3 * dims, dims),
            'attn.q_norm.weight': (dims,),
            'attn.k_norm.weight': (dims,),
            'attn.proj.weight': (dims, dims),
            'attn.proj.bias': (dims,),
            'ls1.gamma': (dims,),
            'norm2.weight': (dims,),
            'mlp.fc1.weight': (2 * dims, dims),
            'mlp.fc1.bias': (2 * dims,),
            'mlp.fc2.weight': (dims, 2 * dims),
            'mlp.fc2.bias': (dims,),
            'ls2.gamma': (dims,),
        }
        for name, shape in block.items():
            state[f'blocks.{index}.{name}'] = draw(*shape)
    return state


def remote_layout(state):
    """Rename to the keys of the remote code on Hugging Face."""
    names = {
        'cls_token': 'embeddings.class_embedding',
        'pos_embed': 'embeddings.position_embedding',
        'patch_embed.proj.weight': 'embeddings.patch_embedding.weight',
        'patch_embed.proj.bias': 'embeddings.patch_embedding.bias',
    }
    renamed = {}
    for key, value in state.items():
        key = names.get(key, key)
        if key.startswith('blocks.'):
            key = 'encoder.layers.' + key.removeprefix('blocks.')
            key = key.replace('.gamma', '')
        renamed[key] = value
    return renamed


def native_layout(state):
    """Rename to the keys of transformers' InternVLVisionModel."""
    names = {
        'cls_token': 'embeddings.cls_token',
        'pos_embed': 'embeddings.position_embeddings',
        'patch_embed.proj.weight': (
            'embeddings.patch_embeddings.projection.weight'
        ),
        'patch_embed.proj.bias': 'embeddings.patch_embeddings.projection.bias',
    }
    parts = {
        'attn.proj': 'attention.projection_layer',
        'attn.q_norm': 'attention.q_norm',
        'attn.k_norm': 'attention.k_norm',
        'norm1': 'layernorm_before',
        'norm2': 'layernorm_after',
        'ls1.gamma': 'lambda_1',
        'ls2.gamma': 'lambda_2',
    }
    renamed = {}
    for key, value in state.items():
        if not key.startswith('blocks.'):
            renamed[names[key]] = value
            continue
        _, index, name = key.split('.', 2)
        start = f'encoder.layer.{index}'
        if name == 'attn.qkv.weight':
            for part, rows in zip('qkv', value.chunk(3), strict=True):
                renamed[f'{start}.attention.{part}_proj.weight'] = rows
            continue
        for old, new in parts.items():
            if name.startswith(old):
                name = name.replace(old, new)
        renamed[f'{start}.{name}'] = value
    return renamed


LAYOUTS = {
    'authors': lambda state: state,
    'remote code': remote_layout,
    'transformers': native_layout,
}


def chat(prefix):
    """Put weights into a chat model, beside its other parts."""

    def wrap(state):
        return {
            **{prefix + key: value for key, value in state.items()},
            'language_model.model.norm.weight': torch.ones(7),
            'mlp1.0.weight': torch.ones(5),
        }

    return wrap


def with_module(state):
    return {f'module.{key}': value for key, value in state.items()}


def write_sharded(folder, state, shards=3, kind='safetensors'):
    """Write shards and their index, as `save_pretrained` leaves them."""
    folder.mkdir()
    stem = 'model' if kind == 'safetensors' else 'pytorch_model'
    keys = sorted(state)
    weight_map = {}
    for number in range(shards):
        name = f'{stem}-{number + 1:05}-of-{shards:05}.{kind}'
        part = {key: state[key].clone() for key in keys[number::shards]}
        weight_map.update(dict.fromkeys(part, name))
        if kind == 'safetensors':
            save_file(part, folder / name, metadata=dict(format='pt'))
        else:
            torch.save(part, folder / name)
    size = sum(value.nbytes for value in state.values())
    index = dict(metadata=dict(total_size=size), weight_map=weight_map)
    path = folder / f'{stem}.{kind}.index.json'
    path.write_text(json.dumps(index))
    return path


def _saved(path, content):
    torch.save(content, path)
    return path


def _safetensors(path, state):
    save_file({key: state[key].clone() for key in state}, path)
    return path


# How a state dict becomes a source; each takes a folder and the state.
FILES = {
    'pth': lambda at, state: _saved(at / 'base.pth', state),
    'pth, in module': lambda at, state: _saved(
        at / 'base.pth', dict(module=state, epoch=3)
    ),
    'pth, module before keys': lambda at, state: _saved(
        at / 'base.pth', with_module(state)
    ),
    'pth, in state_dict': lambda at, state: _saved(
        at / 'base.pth', dict(meta=dict(iter=1), state_dict=state)
    ),
    'pth of old': lambda at, state: _old(at / 'base.pth', state),
    'safetensors': lambda at, state: _safetensors(
        at / 'base.safetensors', state
    ),
    'folder of one': lambda at, state: (
        _safetensors(at / 'model.safetensors', state).parent
    ),
    'shards': lambda at, state: write_sharded(at / 'hf', state).parent,
    'index of shards': lambda at, state: write_sharded(at / 'hf', state),
    'shards, bin': lambda at, state: (
        write_sharded(at / 'hf', state, kind='bin').parent
    ),
    'shards, vision model': lambda at, state: write_sharded(
        at / 'hf', chat('vision_model.')(state)
    ),
    'shards, vision tower': lambda at, state: write_sharded(
        at / 'hf', chat('model.vision_tower.')(state)
    ),
}


def _old(path, state):
    torch.save(state, path, _use_new_zipfile_serialization=False)
    return path
