"""Time and memory of a training step by any methods, on any model of timm.

The floor is the frozen model with the gradient of its input. All time is
measured in turns. Bytes are exact, and the same on every machine.

    python benchmarks/methods.py --model vit_tiny_patch16_224 --size 320
"""

import argparse
import os
import statistics
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
# Read when torch is loaded: idle threads sleep instead of spinning.
os.environ.setdefault('OMP_WAIT_POLICY', 'PASSIVE')
os.environ.setdefault('GOMP_SPINCOUNT', '0')

FLOOR = 'frozen'
METHODS = [
    "dict(type='FLoRA', rank=16)",
    "dict(type='LoRA', rank=16)",
    "dict(type='AdaptFormer', width=64)",
    "dict(type='MoSA', width=64)",
    "dict(type='VPT', tokens=50, form='shallow')",
    "dict(type='VPT', tokens=50, form='deep')",
    "dict(type='Rein', tokens=100, rank=16)",
]


def parse_args(argv=None):
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__.strip().splitlines()[0]
    )
    add = parser.add_argument
    add(
        'methods',
        nargs='*',
        default=METHODS,
        metavar='METHOD',
        help='such as "dict(type=\'VPT\', tokens=50)"; by default seven',
    )
    add('--model', default='vit_tiny_patch16_224', help="timm's name")
    add('--size', type=int, default=320, help='height and width of images')
    add('--batch', type=int, default=1, help='images per step')
    add('--dtype', choices=['float32', 'bfloat16'], default='float32')
    add('--device', choices=['cpu', 'cuda'], default='cpu')
    add('--threads', type=int, help="CPU threads (default: torch's)")
    add('--repeats', type=int, default=10, help='rounds that count')
    add('--warmup', type=int, default=2, help='rounds that do not')
    args = parser.parse_args(argv)
    if min(args.size, args.batch, args.repeats) < 1 or args.warmup < 0:
        parser.error(
            '--size, --batch, --repeats: at least 1; --warmup: at least 0'
        )
    return args


def adapted(method, setting):
    """Return a model as a method trains it, moved away from its start."""
    from benchmarks.backbones import Candidate, build_backbone, leave_constants
    from mmflora.adapters import inject, random_starts
    from mmflora.files.config_text import read_literal

    backbone = build_backbone(setting.model, setting.size)
    if method == FLOOR:
        return Candidate(backbone.requires_grad_(False)).train()
    report = inject(backbone, read_literal(method, 'METHOD'))
    random_starts(backbone)
    candidate = Candidate(backbone, len(report.adapted))
    leave_constants(candidate, std=0.01)
    return candidate.train()


def measure(methods, setting, repeats, warmup, say=print):
    """Measure methods one after another, and their times in turns.

    Returns:
        A row for each: parameters that train, bytes held for the backward
        pass, bytes at the peak, and the median of the seconds.
    """
    from benchmarks.measure import Step, interleave, measure_bytes

    rows, steps = {}, {}
    for method in dict.fromkeys([FLOOR, *methods]):
        step = steps[method] = Step(adapted(method, setting), setting)
        count = sum(p.numel() for p in step.candidate.trainable())
        rows[method] = dict(trainable=count, **measure_bytes(step))
    for method, times in interleave(steps, repeats, warmup, say).items():
        rows[method]['seconds'] = statistics.median(times)
    return rows


def table(rows):
    """Return the rows as lines of Markdown."""
    lines = [
        '| method | trained | time | held | peak |',
        '| --- | --: | --: | --: | --: |',
    ]
    floor = rows[FLOOR]['seconds']
    for method, row in rows.items():
        lines.append(
            f'| `{method}` | {row["trainable"]:,} '
            f'| {row["seconds"] / floor:.2f} '
            f'| {row["bytes_held"] / 2**20:.1f} MiB '
            f'| {row["bytes_peak"] / 2**20:.1f} MiB |'
        )
    return '\n'.join(lines)


def main(argv=None):
    """Measure, and print the table."""
    args = parse_args(argv)
    import torch

    from benchmarks.measure import Setting
    from mmflora.study.run_measures import processor_name

    if args.threads:
        torch.set_num_threads(args.threads)
    setting = Setting(
        *(args.model, args.size, args.batch, args.dtype, args.device), rank=0
    )
    rows = measure(args.methods, setting, args.repeats, args.warmup)
    name = processor_name()
    if args.device == 'cuda':
        name = torch.cuda.get_device_name()
    print(
        f'\n{args.model}, {args.size} px, batch {args.batch}, {args.dtype}, '
        f'{name}, {torch.get_num_threads()} threads; time over the frozen '
        f"model's {rows[FLOOR]['seconds']:.3f} s\n\n{table(rows)}"
    )


if __name__ == '__main__':
    main()
