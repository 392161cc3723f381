"""The published InternViT written down once more, plainly.

Functions of a dict of weights in the layout of the authors' file.  No layer of
PyTorch or timm is used: patches are cut out by reshaping, attention is a
softmax of products, transposed convolutions are sums over channels.
"""

import math

import torch
import torch.nn.functional as F


def rms_norm(x, weight, eps=1e-6):
    return weight * x / torch.sqrt((x * x).mean(-1, keepdim=True) + eps)


def linear(x, weights, name):
    x = x @ weights[f'{name}.weight'].T
    bias = weights.get(f'{name}.bias')
    return x if bias is None else x + bias


def attention(x, weights, name, heads):
    batch, length, width = x.shape
    projected = linear(x, weights, f'{name}.qkv')
    q = projected[..., :width]
    k = projected[..., width : 2 * width]
    v = projected[..., 2 * width :]
    # Before the heads are told apart.
    q = rms_norm(q, weights[f'{name}.q_norm.weight'])
    k = rms_norm(k, weights[f'{name}.k_norm.weight'])
    size = width // heads
    outputs = []
    for head in range(heads):
        part = slice(head * size, (head + 1) * size)
        scores = q[..., part] @ k[..., part].transpose(1, 2) / math.sqrt(size)
        scores = scores - scores.amax(-1, keepdim=True)
        shares = scores.exp() / scores.exp().sum(-1, keepdim=True)
        outputs.append(shares @ v[..., part])
    return linear(torch.cat(outputs, -1), weights, f'{name}.proj')


def gelu(x):
    return x * (1 + torch.erf(x / math.sqrt(2))) / 2


def block(x, weights, name, heads):
    normed = rms_norm(x, weights[f'{name}.norm1.weight'])
    branch = attention(normed, weights, f'{name}.attn', heads)
    x = x + weights[f'{name}.ls1.gamma'] * branch
    normed = rms_norm(x, weights[f'{name}.norm2.weight'])
    hidden = gelu(linear(normed, weights, f'{name}.mlp.fc1'))
    branch = linear(hidden, weights, f'{name}.mlp.fc2')
    return x + weights[f'{name}.ls2.gamma'] * branch


def embed(images, weights, grid_of_weights):
    kernel = weights['patch_embed.proj.weight']
    patch = kernel.shape[-1]
    batch, channels, height, width = images.shape
    rows, columns = height // patch, width // patch
    cut = images.reshape(batch, channels, rows, patch, columns, patch)
    cut = cut.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)
    x = cut @ kernel.flatten(1).T + weights['patch_embed.proj.bias']
    positions = weights['pos_embed']
    moved = positions[:, 1:].reshape(1, *grid_of_weights, -1)
    moved = F.interpolate(
        moved.permute(0, 3, 1, 2),
        size=(rows, columns),
        mode='bicubic',
        align_corners=False,
    )
    moved = moved.permute(0, 2, 3, 1).reshape(1, rows * columns, -1)
    token = (weights['cls_token'] + positions[:, :1]).repeat(batch, 1, 1)
    return torch.cat([token, x + moved], 1), (rows, columns)


def transposed_conv(x, weights, name):
    """Kernel and stride 2: each position becomes a patch of 2 by 2."""
    batch, _, rows, columns = x.shape
    y = torch.einsum('ncij,coab->noiajb', x, weights[f'{name}.weight'])
    y = y.reshape(batch, -1, 2 * rows, 2 * columns)
    return y + weights[f'{name}.bias'][:, None, None]


def channel_norm(x, weights, name, eps=1e-6):
    centred = x - x.mean(1, keepdim=True)
    variance = (centred * centred).mean(1, keepdim=True)
    normed = centred / torch.sqrt(variance + eps)
    scale = weights[f'{name}.weight'][:, None, None]
    return scale * normed + weights[f'{name}.bias'][:, None, None]


def max_pool(x):
    """Kernel and stride 2; a last odd row or column falls away."""
    batch, width, rows, columns = x.shape
    x = x[..., : rows // 2 * 2, : columns // 2 * 2]
    x = x.reshape(batch, width, rows // 2, 2, columns // 2, 2)
    return x.amax((3, 5))


def pyramid(features, weights):
    first, second, third, fourth = features
    first = transposed_conv(first, weights, 'pyramid.up1.0')
    first = gelu(channel_norm(first, weights, 'pyramid.up1.1'))
    first = transposed_conv(first, weights, 'pyramid.up1.3')
    second = transposed_conv(second, weights, 'pyramid.up2.0')
    return first, second, third, max_pool(fourth)


def intern_vit(images, weights, heads, out_indices, grid):
    """Return the backbone's features; four go through the pyramid."""
    x, (rows, columns) = embed(images, weights, grid)
    features = []
    for index in range(max(out_indices) + 1):
        x = block(x, weights, f'blocks.{index}', heads)
        if index in out_indices:
            image = x[:, 1:].permute(0, 2, 1)
            features.append(image.reshape(len(x), -1, rows, columns))
    if any(key.startswith('pyramid.') for key in weights):
        return pyramid(features, weights)
    return tuple(features)
