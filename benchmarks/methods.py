"""Time and memory of a training step, by mechanism, on models of timm.

    python benchmarks/methods.py
    python benchmarks/methods.py METHOD … --models NAME --size 320

The first form measures what stands for each mechanism on a ViT and a
ConvNeXt, and what it costs beside a step; each measurement is a line of
docs/benchmarks/methods.jsonl, from which docs/benchmarks/methods.md is
written.  --only PART measures a part again and keeps the others.  The second
form prints a table of any methods, such as "dict(type='VPT', tokens=50)".

The floor is the frozen model with the gradient of its input.  All time is
measured in turns.  Bytes are exact, and the same on every machine.
"""

import argparse
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
# Read when torch is loaded: idle threads sleep instead of spinning.
os.environ.setdefault('OMP_WAIT_POLICY', 'PASSIVE')
os.environ.setdefault('GOMP_SPINCOUNT', '0')

from benchmarks.mechanism_rows import (  # noqa: E402
    CALIBRATED,
    FLOOR,
    HOOKED,
    ROWS,
    SIZES,
    methods_of,
)

RESULTS = ROOT / 'docs/benchmarks'


def parse_args(argv=None):
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__.strip().splitlines()[0]
    )
    add = parser.add_argument
    add('methods', nargs='*', metavar='METHOD', help='print these alone')
    add('--models', nargs='+', default=[*SIZES], help="timm's names")
    add('--only', nargs='+', choices=PARTS, default=[*PARTS])
    add('--size', type=int, help="of images (default: the model's)")
    add('--batch', type=int, default=4, help='images per step')
    add('--dtype', choices=['float32', 'bfloat16'], default='float32')
    add('--device', choices=['cpu', 'cuda'], default='cpu')
    add('--threads', type=int, default=1, help='of the CPU')
    add('--repeats', type=int, default=9, help='rounds that count')
    add('--warmup', type=int, default=2, help='rounds that do not')
    add('--out', type=Path, default=RESULTS, help='folder of the results')
    args = parser.parse_args(argv)
    least = [args.batch, args.repeats, args.threads]
    if min(*least, args.size or 1) < 1 or args.warmup < 0:
        parser.error(
            '--size, --batch, --repeats, --threads: at least 1; --warmup: at '
            'least 0'
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
        pass, bytes at the peak, and the seconds of all rounds.
    """
    from benchmarks.measure import Step, interleave, measure_bytes

    rows, steps = {}, {}
    for method in dict.fromkeys([FLOOR, *methods]):
        step = steps[method] = Step(adapted(method, setting), setting)
        count = sum(p.numel() for p in step.candidate.trainable())
        rows[method] = dict(trainable=count, **measure_bytes(step))
    for method, times in interleave(steps, repeats, warmup, say).items():
        rows[method]['times'] = times
    return rows


def measure_steps(model, setting, args, results):
    """A step by each method, beside the frozen model."""
    mechanisms = methods_of(model, ROWS)
    rows = measure(mechanisms, setting, args.repeats, args.warmup, quiet)
    for method, row in rows.items():
        own = dict(mechanism=mechanisms.get(method, ''))
        results.add('step', model, method, **own, **row, **about(setting))


def measure_passes(model, setting, args, results):
    """The calibration before the first step."""
    from benchmarks.mechanism_costs import measure_pass

    for method in methods_of(model, CALIBRATED):
        found = measure_pass(
            lambda method=method: adapted(method, setting),
            setting,
            max(1, args.repeats // 3),
            quiet,
        )
        results.add('pass', model, method, **found, **about(setting))


def measure_hooks(model, setting, args, results):
    """What hooks add to a step with its optimizer."""
    from benchmarks.mechanism_costs import measure_hook
    from mmflora.files.config_text import read_literal

    for hook, method in HOOKED.items():
        times = measure_hook(
            lambda method=method: adapted(method, setting),
            setting,
            read_literal(hook, 'HOOK'),
            args.repeats,
            quiet,
        )
        own = dict(method=method, times=times)
        results.add('hook', model, hook, **own, **about(setting))


PARTS = {
    'step': measure_steps,
    'pass': measure_passes,
    'hook': measure_hooks,
}


def quiet(_line):
    """Say nothing: twenty times in a line help nobody."""


def about(setting):
    """Return what a line says of its setting."""
    import torch

    names = ('size', 'batch', 'dtype')
    found = {name: getattr(setting, name) for name in names}
    return dict(found, threads=torch.get_num_threads())


def main(argv=None):
    """Measure, and write the page or print a table."""
    args = parse_args(argv)
    import torch

    from benchmarks.line_results import Results
    from benchmarks.measure import Setting
    from benchmarks.method_page import page, table

    torch.set_num_threads(args.threads)
    results = None
    if not args.methods:
        results = Results(args.out, 'methods', page, args.device)
    for model in args.models:
        size = args.size or SIZES.get(model, 224)
        setting = Setting(
            model, size, args.batch, args.dtype, args.device, rank=0
        )
        if results is None:
            rows = measure(args.methods, setting, args.repeats, args.warmup)
            print(f'\n{model}, {about(setting)}\n\n{table(rows)}')
            continue
        for part in args.only:
            PARTS[part](model, setting, args, results)
    if results is not None:
        print(results.page)


if __name__ == '__main__':
    main()
