"""Build every config of the toolkits' zoos, stock and adapted, as a page.

    python tools/zoo_coverage.py                # build every config
    python tools/zoo_coverage.py --families     # one training step per family
    python tools/zoo_coverage.py --write        # docs/zoo.md and docs/zoo.json

The first two add lines to files in --results. They can be split over several
processes (--shard 1/2, --shard 2/2) and stopped and resumed (--resume).
"""

import argparse
import os
import sys
from pathlib import Path

# Read when torch is loaded. Models are small, and children many.
for _name, _value in {
    'OMP_NUM_THREADS': '1',
    'OMP_WAIT_POLICY': 'PASSIVE',
    'GOMP_SPINCOUNT': '0',
}.items():
    os.environ.setdefault(_name, _value)
ROOT = Path(__file__).resolve().parents[1]
# A clone works without being installed; what is installed comes first.
sys.path.append(str(ROOT))


def parse_args(argv=None):
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        '--families',
        action='store_true',
        help='train one config of each family for a step, instead',
    )
    parser.add_argument(
        '--write',
        action='store_true',
        help='write the page and the JSON from the results, instead',
    )
    parser.add_argument(
        '--method',
        default='flora-r16',
        help='the method, as tools/train.py --peft takes it (%(default)s)',
    )
    parser.add_argument(
        '--only',
        metavar='PATTERN',
        help="only configs, or families, of such names: 'mmseg::*swin*', dino",
    )
    parser.add_argument(
        '--shard',
        type=shard,
        default=(1, 1),
        metavar='I/N',
        help='only the I-th of N parts',
    )
    parser.add_argument(
        '--resume',
        action='store_true',
        help='keep the results that are there; without it they are replaced',
    )
    parser.add_argument(
        '--results',
        default='work_dirs/zoo',
        metavar='FOLDER',
        help='where the results of the parts go (%(default)s)',
    )
    parser.add_argument(
        '--out',
        default=str(ROOT / 'docs'),
        metavar='FOLDER',
        help='where --write puts zoo.md and zoo.json',
    )
    parser.add_argument(
        '--verbose',
        action='store_true',
        help='show what the models print, and tracebacks',
    )
    return parser.parse_args(argv)


def shard(text):
    """Read I/N."""
    first, _, last = text.partition('/')
    if not (first.isdigit() and last.isdigit() and int(first) > 0):
        raise argparse.ArgumentTypeError(f'{text!r} is no I/N, such as 1/2')
    if int(first) > int(last):
        raise argparse.ArgumentTypeError(f'{text!r}: there is no such part')
    return int(first), int(last)


def run(args):
    """Sweep, or write the page."""
    from tempfile import TemporaryDirectory

    from benchmarks.zoo import sweep
    from benchmarks.zoo.configs import select, zoo_configs
    from benchmarks.zoo.page import write_page
    from benchmarks.zoo.results import Results, read_results
    from benchmarks.zoo.text_model import write_text_model

    folder = sweep.results_folder(args.results)
    if args.write:
        write_page(folder, sweep.results_folder(args.out))
        return
    if args.families:
        _, builds = read_results(folder, 'builds')
        families = sweep.candidates(builds, args.only, args.shard)
    else:
        configs = select(zoo_configs(), args.only, args.shard)
    what = 'steps' if args.families else 'builds'
    results = Results(folder, what, args.method, args.shard, args.resume)
    sweep.load_toolkits()
    with TemporaryDirectory() as made:
        text = write_text_model(Path(made))
        if args.families:
            sweep.sweep_families(
                families, results, args.method, text, args.verbose
            )
        else:
            sweep.sweep_builds(
                configs, results, args.method, text, args.verbose
            )


def main():
    """Do what the command line says."""
    args = parse_args()
    from mmflora.config.command_line import user_errors

    with user_errors():
        run(args)


if __name__ == '__main__':
    main()
