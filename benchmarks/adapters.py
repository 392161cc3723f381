"""Compare ways to fine-tune a model: time, memory and rounding of one step.

The floor is the frozen model with the gradient of its input; beside it run
full fine-tuning, this project's FLoRA, the authors' way to compute it, and
other libraries' methods at as many parameters on the same layers.  All time
is measured in turns.  Bytes are exact, and the same on every machine.

    python benchmarks/adapters.py --model convnextv2_atto --size 64
"""

import argparse
import json
import os
import platform
import sys
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
# Read when a process starts. OpenMP: idle threads sleep, not spin. glibc:
# large tensors reuse memory; mapping and clearing new pages for each of them
# takes longer than many an operator, and its time varies most.
ENVIRONMENT = {
    'OMP_WAIT_POLICY': 'PASSIVE',
    'GOMP_SPINCOUNT': '0',
    'MALLOC_MMAP_MAX_': '0',
    'MALLOC_TRIM_THRESHOLD_': str(1 << 40),
}
TARGET_SETTING = dict(
    model='convnextv2_base', size=512, batch=2, dtype='float32', rank=16
)


def parse_args(argv=None):
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__.strip().splitlines()[0]
    )
    add = parser.add_argument
    add('--model', default='convnextv2_base', help="timm's name of a model")
    add('--size', type=int, default=512, help='height and width of images')
    add('--batch', type=int, default=2, help='images per step')
    add('--rank', type=int, default=16, help="FLoRA's rank")
    add(
        '--dtype',
        choices=['float32', 'bfloat16'],
        default='float32',
        help='bfloat16: under autocast, parameters in float32',
    )
    add('--device', choices=['cpu', 'cuda'], help='default: cuda, if any')
    add('--channels-last', action='store_true', help='memory format')
    add('--tf32', action='store_true', help='a GPU may round float32 to TF32')
    add('--threads', type=int, help="CPU threads (default: torch's)")
    add(
        '--repeats', type=int, default=10, help='rounds that count; 0: no time'
    )
    add('--warmup', type=int, default=2, help='rounds that do not')
    add(
        '--error-size',
        type=int,
        default=128,
        help='size of the images for the errors against float64',
    )
    add(
        '--only',
        nargs='+',
        metavar='NAME',
        help='some contenders, beside the frozen model',
    )
    stated = ', '.join(f'{k}={v}' for k, v in TARGET_SETTING.items())
    add(
        '--targets',
        action='store_true',
        help=f'print which targets are met, as stated for {stated}',
    )
    add(
        '--out',
        type=Path,
        default=ROOT / 'docs' / 'benchmarks',
        help='folder for the JSON and the plot',
    )
    add('--json', type=Path, help='write this file instead, without a plot')
    args = parser.parse_args(argv)
    if min(args.size, args.batch, args.rank, args.error_size) < 1:
        parser.error('--size, --batch, --rank, --error-size: at least 1')
    if args.repeats < 0 or args.warmup < 0:
        parser.error('--repeats, --warmup: at least 0')
    wrong = {
        name: value
        for name, value in TARGET_SETTING.items()
        if getattr(args, name) != value
    }
    if args.targets and wrong:
        wanted = ', '.join(f'--{name} {wrong[name]}' for name in wrong)
        parser.error(f'--targets are stated for {wanted}')
    return args


def say(line):
    """Print at once, also into a pipe."""
    print(line, flush=True)


def measure_memory(names, setting, error_size):
    """Measure everything but time, one contender after another.

    Returns:
        A row per contender; for those that cannot be built, why.
    """
    from benchmarks.contenders import CONTENDERS, build
    from benchmarks.measure import Step, measure_bytes, measure_errors

    rows, failed = {}, {}
    for name in names:
        contender = CONTENDERS[name]

        def make(size, name=name):
            return build(name, setting.model, size, setting.rank)

        try:
            step = Step(make(setting.size), setting)
            row = dict(
                label=contender.label,
                note=contender.note,
                layers=step.candidate.layers,
                trainable=sum(p.numel() for p in step.candidate.trainable()),
                ranks=step.candidate.ranks,
                **measure_bytes(step),
            )
            del step
            row.update(
                measure_errors(lambda: make(error_size), setting, error_size)
            )
        except Exception as error:  # another library's, of any kind
            if name == 'frozen' or name.startswith('flora'):
                raise
            failed[name] = f'{type(error).__name__}: {error}'
            say(f'{contender.label}: left out, {failed[name]}')
            continue
        rows[name] = dict(row, times=[])
        say(
            f'{contender.label}: {row["layers"]} layers, '
            f'{row["trainable"]:,} trainable, '
            f'{row["bytes_held"] / 2**20:.1f} MiB held'
        )
    return rows, failed


def measure_times(rows, setting, repeats, warmup):
    """Add each contender's times to its row."""
    from benchmarks.contenders import build
    from benchmarks.measure import Step, interleave

    steps = {
        name: Step(
            build(name, setting.model, setting.size, setting.rank), setting
        )
        for name in rows
    }
    times = interleave(steps, repeats, warmup, say)
    for name, values in times.items():
        rows[name]['times'] = values


def environment(setting):
    """Return what the results depend on, beside the setting."""
    import torch

    from mmflora.study.run_measures import processor_name

    packages = ('torch', 'timm', 'peft', 'lycoris-lora', 'loralib')
    device = processor_name()
    if setting.device == 'cuda':
        device = torch.cuda.get_device_name()
    return dict(
        versions={
            **{name: version(name) for name in packages},
            'torch': torch.__version__,  # with its build
        },
        python=platform.python_version(),
        device_name=device,
        threads=torch.get_num_threads(),
        tf32=torch.backends.cudnn.allow_tf32,
        command=' '.join(['python', 'benchmarks/adapters.py', *sys.argv[1:]]),
        date=datetime.now(timezone.utc).isoformat(timespec='seconds'),
    )


def main(argv=None):
    """Measure, and write what was found."""
    args = parse_args(argv)
    import torch

    from benchmarks import report
    from benchmarks.contenders import chosen
    from benchmarks.measure import Setting

    if args.threads:
        torch.set_num_threads(args.threads)
    torch.backends.cuda.matmul.allow_tf32 = args.tf32
    torch.backends.cudnn.allow_tf32 = args.tf32
    has_gpu = torch.cuda.is_available()
    setting = Setting(
        args.model,
        args.size,
        args.batch,
        args.dtype,
        args.device or ('cuda' if has_gpu else 'cpu'),
        args.rank,
        args.channels_last,
    )
    names = chosen(setting.model, setting.size, args.only)
    rows, failed = measure_memory(names, setting, args.error_size)
    if args.repeats:
        measure_times(rows, setting, args.repeats, args.warmup)
    about = environment(setting)
    format_ = '_channels-last' if setting.channels_last else ''
    title = (
        f'{setting.model}, {setting.size} px, batch {setting.batch}, '
        f'{setting.dtype}, rank {setting.rank}, {about["device_name"]}'
    )
    say(f'\n{title}\n{report.table(rows)}\n{report.notes(rows, failed)}')
    say(
        'Rank: of linear layers / of convolutions. Spread: smallest and '
        'largest ratio of a round.\n'
        f'Errors: against float64, at {args.error_size} px, of all adapter '
        "gradients at once (the input's where nothing trains)."
    )
    if args.targets:
        say(f'\n{report.targets(rows)}')
    stem = (
        f'adapters_{setting.model}_{setting.size}px_b{setting.batch}'
        f'_r{setting.rank}_{setting.dtype}_{setting.device}{format_}'
    )
    path = args.json or args.out / f'{stem}.json'
    path.parent.mkdir(parents=True, exist_ok=True)
    found = dict(
        setting=vars(setting),
        error_size=args.error_size,
        repeats=args.repeats,
        warmup=args.warmup,
        **about,
        contenders=rows,
        left_out=failed,
    )
    path.write_text(json.dumps(found, indent=1) + '\n')
    say(f'\n{path}')
    if args.repeats and not args.json:
        report.plot(rows, title, path.with_suffix('.png'))
        say(str(path.with_suffix('.png')))


if __name__ == '__main__':
    if ENVIRONMENT.items() - os.environ.items():
        os.environ.update(ENVIRONMENT)
        os.execv(sys.executable, [sys.executable, *sys.argv])
    main()
