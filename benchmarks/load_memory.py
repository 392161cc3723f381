"""The peak of memory while an InternViT's base is loaded.

    python benchmarks/load_memory.py --blocks 10

Writes random weights of InternViT-6B's width in shards to a temporary folder,
builds the backbone over them in a process of its own, and prints the highest
resident memory of that process, less what it had before, beside the weights'
size in bfloat16.  The files are deleted at the end, also of a run that fails.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

MEGA = 1e6
SIZES = {'bfloat16': 2, 'float32': 4}


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--blocks', type=int, default=48)
    parser.add_argument('--width', type=int, default=3200)
    parser.add_argument('--heads', type=int, default=25)
    parser.add_argument('--shards', type=int, default=3)
    parser.add_argument(
        '--stored', default='bfloat16', choices=SIZES, help='type in the files'
    )
    parser.add_argument(
        '--layout',
        default='native',
        choices=('native', 'authors'),
        help="shards with q, k and v apart, or one file in the authors' way",
    )
    parser.add_argument(
        '--bits',
        type=int,
        choices=(8, 4),
        help='keep the weights of the blocks in so many bits',
    )
    parser.add_argument('--folder', help='where the temporary files go')
    parser.add_argument('--json', action='store_true')
    parser.add_argument('--load', metavar='SOURCE', help=argparse.SUPPRESS)
    return parser.parse_args()


def block_tensors(
    args: argparse.Namespace, index: int
) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield keys and shapes of one block, in the layout of the files."""
    width, hidden = args.width, 4 * args.width
    native = args.layout == 'native'
    start = f'encoder.layer.{index}.' if native else f'blocks.{index}.'
    attn = 'attention' if native else 'attn'
    if native:
        for part in 'qkv':
            yield f'{start}{attn}.{part}_proj.weight', (width, width)
    else:
        yield f'{start}{attn}.qkv.weight', (3 * width, width)
    proj = 'projection_layer' if native else 'proj'
    yield f'{start}{attn}.{proj}.weight', (width, width)
    yield f'{start}{attn}.{proj}.bias', (width,)
    yield f'{start}mlp.fc1.weight', (hidden, width)
    yield f'{start}mlp.fc1.bias', (hidden,)
    yield f'{start}mlp.fc2.weight', (width, hidden)
    yield f'{start}mlp.fc2.bias', (width,)
    vectors = [f'{attn}.q_norm.weight', f'{attn}.k_norm.weight']
    vectors += (
        ['layernorm_before.weight', 'layernorm_after.weight']
        + ['lambda_1', 'lambda_2']
        if native
        else ['norm1.weight', 'norm2.weight', 'ls1.gamma', 'ls2.gamma']
    )
    for name in vectors:
        yield start + name, (width,)


def stem_tensors(
    args: argparse.Namespace,
) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield keys and shapes of the embeddings, at 224 px."""
    native = args.layout == 'native'
    start = 'embeddings.' if native else ''
    positions = 'position_embeddings' if native else 'pos_embed'
    patches = 'patch_embeddings.projection' if native else 'patch_embed.proj'
    yield f'{start}cls_token', (1, 1, args.width)
    yield f'{start}{positions}', (1, 257, args.width)
    yield f'{start}{patches}.weight', (args.width, 3, 14, 14)
    yield f'{start}{patches}.bias', (args.width,)


def write_weights(args: argparse.Namespace, folder: Path) -> str:
    """Write the files, one shard in memory at a time; return the source."""
    import torch
    from safetensors.torch import save_file

    dtype = getattr(torch, args.stored)
    shards = args.shards if args.layout == 'native' else 1
    weight_map: dict[str, str] = {}
    for shard in range(shards):
        named = list(stem_tensors(args)) if shard == 0 else []
        for index in range(shard, args.blocks, shards):
            named += block_tensors(args, index)
        state = {key: torch.rand(shape).to(dtype) for key, shape in named}
        if args.layout == 'authors':
            torch.save(dict(module=state), folder / 'base.pth')
            return str(folder / 'base.pth')
        name = f'model-{shard + 1:05}-of-{shards:05}.safetensors'
        save_file(state, folder / name)
        weight_map.update(dict.fromkeys(state, name))
    index_file = folder / 'model.safetensors.index.json'
    index_file.write_text(json.dumps(dict(weight_map=weight_map)))
    return str(folder)


def resident(name: str) -> float:
    """Return ``VmRSS`` or the peak ``VmHWM`` of this process, in bytes."""
    for line in Path('/proc/self/status').read_text().splitlines():
        if line.startswith(f'{name}:'):
            return float(line.split()[1]) * 1024
    raise RuntimeError(f'/proc/self/status has no {name}: Linux is needed.')


def load(args: argparse.Namespace) -> dict[str, Any]:
    """Build the backbone over the files; return what was measured."""
    import torch

    import mmflora.models
    from mmflora.adapters.quantized import load_kernels

    options: dict[str, Any] = dict(
        embed_dims=args.width,
        num_heads=args.heads,
        depth=args.blocks,
        out_indices=(args.blocks - 1,),
        pyramid=False,
        dtype='bfloat16',
    )
    adapter = dict(type='FLoRA', rank=1, scale=0.04)
    if args.bits:
        options['quantize'] = dict(bits=args.bits)
        load_kernels()
    with torch.device('meta'):  # what Python itself loads on the way
        mmflora.models.FLoRAInternViT(**options, adapter=adapter)
    source = dict(type='Pretrained', checkpoint=args.load)
    before, start = resident('VmRSS'), time.perf_counter()
    backbone = mmflora.models.FLoRAInternViT(
        **options, adapter=adapter, init_cfg=source
    )
    seconds = time.perf_counter() - start
    base = set(backbone.base_record.base_keys)
    frozen = [
        parameter
        for name, parameter in backbone.named_parameters()
        if name in base
    ]
    weights = sum(parameter.nbytes for parameter in frozen)
    dense = sum(p.numel() * p.element_size() for p in frozen)
    peak = resident('VmHWM') - before
    return dict(
        blocks=args.blocks,
        weights=weights,
        dense=dense,
        peak=peak,
        ratio=peak / weights,
        seconds=seconds,
    )


def check_space(args: argparse.Namespace, folder: Path) -> None:
    """Refuse what the disk cannot hold.

    Raises:
        SystemExit: If it cannot.
    """
    count = sum(12 * args.width**2 for _ in range(args.blocks))
    needed = count * SIZES[args.stored] * 1.1
    free = shutil.disk_usage(folder).free
    if free < needed:
        sys.exit(
            f"error: '{folder}' has {free / 1e9:.1f} GB free, the files of "
            f'{args.blocks} blocks take {needed / 1e9:.1f} GB. Give another '
            '--folder, or fewer --blocks.'
        )


def main() -> None:
    """Measure, print, delete."""
    args = parse_args()
    if args.load:
        print(json.dumps(load(args)))
        return
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        check_space(args, Path(name))
        source = write_weights(args, Path(name))
        done = subprocess.run(
            [sys.executable, __file__, *sys.argv[1:], '--load', source],
            stdout=subprocess.PIPE,
            text=True,
            check=True,
            env={
                **os.environ,
                'PYTHONPATH': str(Path(__file__).resolve().parents[1])
                + os.pathsep
                + os.environ.get('PYTHONPATH', ''),
            },
        )
    figures = json.loads(done.stdout.splitlines()[-1])
    if args.json:
        print(json.dumps(figures))
        return
    kept = f'{args.bits} bits' if args.bits else 'bfloat16'
    print(
        f'{figures["blocks"]} blocks of width {args.width}: weights in '
        f'{kept} {figures["weights"] / MEGA:.0f} MB (in bfloat16 '
        f'{figures["dense"] / MEGA:.0f} MB), peak while loading '
        f'{figures["peak"] / MEGA:.0f} MB, ratio {figures["ratio"]:.3f}, '
        f'{figures["seconds"]:.1f} s (stored as {args.stored}, layout '
        f'{args.layout})'
    )


if __name__ == '__main__':
    main()
