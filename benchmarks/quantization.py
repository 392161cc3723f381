"""What quantizing a frozen base costs in accuracy, and what it saves.

    python benchmarks/quantization.py
    python benchmarks/quantization.py --checkpoint intern_vit_6b_224px.pth \
        --width 3200 --heads 25 --blocks 48

Builds an InternViT without pyramid, once in its own type and once for each
way to store the weights of its linear layers, and compares the features of
its blocks for images of Gaussian noise.  Without a checkpoint weights are
drawn from a Gaussian whose spread keeps the size of activations, and layer
scales are 1, so that each block counts.
"""

import argparse
import copy
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mmflora.adapters.quantized import Quantization, QuantizedWeight
from mmflora.adapters.quantized_base import quantize_base, quantized_weights
from mmflora.models import InternViT

WAYS: dict[str, dict[str, Any]] = {
    '8 bits, blocks of 64': dict(bits=8),
    '8 bits, blocks of 256': dict(bits=8, block_size=256),
    'nf4, blocks of 64': dict(bits=4),
    'nf4, blocks of 128': dict(bits=4, block_size=128),
    'fp4, blocks of 64': dict(bits=4, quant_type='fp4'),
}


def parse_args(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--width', type=int, default=384)
    parser.add_argument('--heads', type=int, default=6)
    parser.add_argument('--blocks', type=int, default=12)
    parser.add_argument('--size', type=int, default=112, help='in pixels')
    parser.add_argument('--images', type=int, default=2)
    parser.add_argument('--checkpoint', help='weights of such a model')
    parser.add_argument('--seed', type=int, default=0)
    return parser.parse_args(arguments)


def build(args: argparse.Namespace) -> InternViT:
    """Build the backbone in float32, with all its blocks' outputs."""
    source = None
    if args.checkpoint:
        source = dict(type='Pretrained', checkpoint=args.checkpoint)
    torch.manual_seed(args.seed)
    model = InternViT(
        layer_scale=1.0,
        img_size=args.size,
        embed_dims=args.width,
        num_heads=args.heads,
        depth=args.blocks,
        out_indices=range(args.blocks),
        pyramid=False,
        init_cfg=source,
    )
    if source is not None:
        model.init_weights()
    else:
        for layer in model.modules():
            if isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, std=layer.in_features**-0.5)
    return model.eval().requires_grad_(False)


def linear_bytes(model: nn.Module) -> int:
    """Return the bytes of the linear layers' weights."""
    return sum(
        layer.weight.nbytes
        for layer in model.modules()
        if isinstance(layer, nn.Linear)
    )


def to_bfloat16(model: nn.Module) -> None:
    """Round the linear layers' weights to bfloat16, computing as before."""
    for layer in model.modules():
        if isinstance(layer, nn.Linear):
            layer.weight.data = layer.weight.data.bfloat16().float()


def relative(found: Tensor, right: Tensor) -> float:
    """Return ‖found − right‖ / ‖right‖."""
    return float((found - right).norm() / right.norm())


def measure(
    model: nn.Module, images: Tensor
) -> Iterator[tuple[str, float, float, float, float]]:
    """Yield a row for each way: MB, error of weights, of features."""
    right = model(images)
    rounded = copy.deepcopy(model)
    to_bfloat16(rounded)
    weights = [
        relative(new, old)
        for new, old in zip(
            rounded.parameters(), model.parameters(), strict=True
        )
        if old.dim() == 2
    ]
    features = rounded(images)
    yield (
        'bfloat16',
        linear_bytes(model) / 2e6,
        sum(weights) / len(weights),
        relative(features[0], right[0]),
        relative(features[-1], right[-1]),
    )
    for name, options in WAYS.items():
        # As the weights of a base in bfloat16 are stored.
        stored = copy.deepcopy(rounded)
        to_half(stored)
        quantize_base(stored, Quantization(**options))
        errors = [w.error for w in quantized_weights(stored).values()]
        size = linear_bytes(stored)
        stored.float()
        features = stored(images)
        yield (
            name,
            size / 1e6,
            sum(errors) / len(errors),
            relative(features[0], right[0]),
            relative(features[-1], right[-1]),
        )


def to_half(model: nn.Module) -> None:
    """Give the linear layers' weights the type bfloat16."""
    for layer in model.modules():
        if isinstance(layer, nn.Linear):
            assert not isinstance(layer.weight, QuantizedWeight)
            layer.weight.data = layer.weight.data.bfloat16()


@torch.no_grad()
def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    args = parse_args(arguments)
    model = build(args)
    torch.manual_seed(args.seed + 1)
    images = torch.randn(args.images, 3, args.size, args.size)
    print(
        f'{args.blocks} blocks of width {args.width}, '
        f'{args.images} images of {args.size} px; relative errors against '
        'float32'
    )
    print(
        '| linear weights as | MB | weights | first block | last block |\n'
        '|---|---|---|---|---|'
    )
    for name, size, weights, first, last in measure(model, images):
        print(
            f'| {name} | {size:.2f} | {weights:.5f} | {first:.5f} '
            f'| {last:.5f} |'
        )


if __name__ == '__main__':
    main()
