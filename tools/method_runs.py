"""Train each method of the small Mask R-CNN, and say what came of it.

    python tools/method_runs.py             # train, print a table
    python tools/method_runs.py --write     # and write docs/method_runs.md

It draws the generated data, trains a base on the source domain, and then one
config after the other on the target domain. Everything goes to one folder; a
run that was finished there is not repeated.
"""

import argparse
import contextlib
import logging
import os
import statistics
import sys
import time
import traceback
from pathlib import Path
from typing import Any

# Read when torch is loaded. So small a model gains nothing from a second
# thread; waiting threads sleep instead of spinning.
for _name, _value in {
    'OMP_NUM_THREADS': '1',
    'OMP_WAIT_POLICY': 'PASSIVE',
    'GOMP_SPINCOUNT': '0',
}.items():
    os.environ.setdefault(_name, _value)
ROOT = Path(__file__).resolve().parents[1]
# A clone works without being installed; what is installed comes first.
sys.path.append(str(ROOT))

CONFIGS = ROOT / 'configs'
PAGE = ROOT / 'docs' / 'method_runs.md'
SOURCE = 'full/mask-rcnn_convnextv2-atto_full_shapes-source.py'
BASE = 'work_dirs/shapes_base/base.pth'
PICTURES: dict[str, Any] = dict(num_train=160, num_val=8)
BATCH = 4
# So many iterations are averaged at the beginning and at the end.
AVERAGED = 5
HEAD = """\
# Each method of the small Mask R-CNN

Written by

```bash
python tools/method_runs.py --write
```

which trains the small Mask R-CNN with each method that has a config for it
(VPT, Rein and NOAH are for transformers; LotteryTicket needs a fully trained
model first) on the generated target domain: {iterations} iterations of {batch}
pictures of 128×128, over the same base, with the same seed and schedule. The
losses show that every method trains in the same harness. So few iterations do
not show which method is better. Over the frozen base the losses fall by the
heads alone, whose random start differs where a method draws random numbers
before them.
`tests/test_tools/test_method_runs.py` checks that each method's own parameters
change, resume and merge.

*trained* counts the method's parameters in the backbone; neck, heads and the
norms of the outputs train in every row. *first* and *last* are the mean losses
of the first and the last {averaged} iterations, as seen on
{device}. What a method costs is in
[benchmarks](benchmarks/README.md).
"""


def parse_args(argv=None):
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument(
        'methods',
        nargs='*',
        metavar='METHOD',
        help='such as lora-r8; by default all',
    )
    parser.add_argument(
        '--out',
        type=Path,
        default=Path('work_dirs/method_runs'),
        help='folder of data, base and runs',
    )
    parser.add_argument(
        '--epochs', type=int, default=1, help='of each method, at least 1'
    )
    parser.add_argument(
        '--write',
        action='store_true',
        help=f'replace {PAGE}, all of it: one table of all methods',
    )
    return parser.parse_args(argv)


def small_configs():
    """Map each method to its config of the small Mask R-CNN."""
    found = CONFIGS.glob('*/mask-rcnn_convnextv2-atto_*_shapes.py')
    named = {path.stem.split('_')[2]: path for path in found}
    return dict(sorted(named.items()))


def choose(args):
    """Return the configs that the command line asks for, by method.

    Raises:
        ValueError: If a method is unknown, or the page would lack some.
    """
    configs = small_configs()
    unknown = sorted(set(args.methods) - configs.keys())
    if unknown:
        raise ValueError(
            f'METHOD: there is no small Mask R-CNN with '
            f'{", ".join(unknown)}. There is one with {", ".join(configs)}.'
        )
    if args.epochs < 1:
        raise ValueError(f'--epochs: at least 1, got {args.epochs}.')
    if args.methods and args.write:
        raise ValueError(
            f'--write: {PAGE.name} has every method. Leave METHOD out.'
        )
    return {name: configs[name] for name in args.methods or configs}


def train(config, work_dir, *options):
    """Train one config as tools/train.py does; what it prints goes to a file.

    Raises:
        RuntimeError: If it fails; the file with all that it said is named.
    """
    import train as tool

    work_dir.mkdir(parents=True, exist_ok=True)
    # By the same name MMEngine would take the visualizer of the run before.
    options = (f'visualizer.name={config.stem}', *options)
    words = [str(config), '--work-dir', str(work_dir), '--no-validate']
    output, before = work_dir / 'output.txt', sys.argv
    sys.argv = ['train.py', *words, '--cfg-options', *options]
    with (
        open(output, 'w', encoding='utf-8') as file,
        contextlib.redirect_stdout(file),
        contextlib.redirect_stderr(file),
    ):
        try:
            tool.main()
        except (Exception, SystemExit) as error:
            traceback.print_exc()
            raise RuntimeError(
                f'{config.stem}: {error} (all of it is in {output}).'
            ) from error
        finally:
            sys.argv = before


def prepare():
    """Draw the data and train the base, unless they are there."""
    from demo.shapes import write_shapes

    for domain in ('source', 'target'):
        write_shapes('data/shapes', domain, **PICTURES)
    if not Path(BASE).is_file():
        print('training the base', flush=True)
        train(CONFIGS / SOURCE, Path(BASE).parent)


def run_methods(configs, args):
    """Train each method that was not, or not with such options."""
    options = (
        f'train_cfg.max_epochs={args.epochs}',
        f'param_scheduler.1.end={args.epochs}',
        f'train_dataloader.batch_size={BATCH}',
        'default_hooks.logger.interval=1',
    )
    for index, (method, config) in enumerate(configs.items(), 1):
        work_dir = Path(method)
        place = f'[{index}/{len(configs)}] {method}:'
        finished = work_dir / 'finished.txt'
        if finished.is_file() and finished.read_text() == str(options):
            print(place, 'is there', flush=True)
            continue
        start = time.perf_counter()
        train(config, work_dir, *options)
        seconds = time.perf_counter() - start
        finished.write_text(str(options))
        losses = read_losses(work_dir)
        print(
            place,
            f'loss {mean(losses[:AVERAGED])} to {mean(losses[-AVERAGED:])} '
            f'in {seconds:.0f} s',
            flush=True,
        )


def read_losses(work_dir):
    """Return the losses of the last run in a folder, by iteration."""
    from demo.pictures.curves import read_scalars

    return [value for _, value in read_scalars(work_dir)['loss']]


def mean(values):
    """Return a mean, as it stands in the table."""
    return f'{statistics.fmean(values):.2f}'


def trained(config):
    """Return how many parameters a method has in the backbone."""
    from mmengine.config import Config

    from mmflora.count.parameters import build_on_meta, count_model

    return count_model(build_on_meta(Config.fromfile(config))).method


def table(configs, folder):
    """Return the lines of the table."""
    lines = [
        '| method | trained | first | last |',
        '| --- | --: | --: | --: |',
    ]
    for method, config in configs.items():
        losses = read_losses(folder / method)
        link = f'../{config.relative_to(ROOT)}'
        lines.append(
            f'| [{method}]({link}) | {trained(config):,} '
            f'| {mean(losses[:AVERAGED])} | {mean(losses[-AVERAGED:])} |'
        )
    return lines


def device():
    """Name what the runs were computed on."""
    import torch

    from mmflora.study.run_measures import processor_name

    if torch.cuda.is_available():
        name = torch.cuda.get_device_name()
    else:
        name = 'one thread of ' + processor_name()
    return f'{name}, with PyTorch {torch.__version__.split("+")[0]}'


def main():
    """Train, and print or write the table."""
    args = parse_args()
    from mmflora.config.command_line import user_errors

    with user_errors(RuntimeError):
        configs = choose(args)
        args.out = args.out.resolve()
        args.out.mkdir(parents=True, exist_ok=True)
        os.chdir(args.out)  # where the configs look for data and base
        prepare()
        run_methods(configs, args)
    logging.disable()  # MMEngine's go to files of runs that are over
    lines = table(configs, args.out)
    print('\n'.join(lines))
    if args.write:
        head = HEAD.format(
            iterations=len(read_losses(args.out / next(iter(configs)))),
            batch=BATCH,
            averaged=AVERAGED,
            device=device(),
        )
        staged = PAGE.with_suffix('.tmp')
        staged.write_text('\n'.join([head, *lines, '']), encoding='utf-8')
        staged.replace(PAGE)


if __name__ == '__main__':
    main()
