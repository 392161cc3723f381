"""Test an adapter at several of its lower ranks.

python tools/rank_curve.py CONFIG work_dirs/run/epoch_12.pth --ranks 1 2 4 8
"""

import argparse
import os
import sys
from pathlib import Path

# Read when torch is loaded, hence before any import of it: threads that wait
# sleep instead of spinning, which on busy cores costs a factor of 40.
if not {'OMP_WAIT_POLICY', 'GOMP_SPINCOUNT'} & os.environ.keys():
    os.environ.update(OMP_WAIT_POLICY='PASSIVE', GOMP_SPINCOUNT='0')
# A clone works without being installed; what is installed comes first.
sys.path.append(str(Path(__file__).resolve().parents[1]))


def parse_args(argv=None):
    """Read the command line."""
    from mmflora.config.launch import add_arguments

    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('config', help='path of the config file')
    parser.add_argument(
        'checkpoint', help='a checkpoint or an adapter, of a method with ranks'
    )
    parser.add_argument('--ranks', type=int, nargs='+', required=True)
    parser.add_argument(
        '--compress',
        action='store_true',
        help='take the nearest update of each rank, not the prefix',
    )
    parser.add_argument(
        '--metrics', nargs='+', help='what to print (default: all)'
    )
    parser.add_argument('--plot', metavar='FILE', help='a picture to write')
    add_arguments(parser)
    return parser.parse_args(argv)


def prepare(args):
    """Make the adapters of all ranks; return each rank, size and config."""
    from mmflora.adapter_files.rank_curve import adapters_of_ranks
    from mmflora.adapter_files.read import read_any
    from mmflora.config.check import check_paths, check_weights_file
    from mmflora.config.classes import check_classes
    from mmflora.config.launch import load_config, start_processes

    cfg = load_config(args)
    check_weights_file('checkpoint', args.checkpoint)
    check_paths(cfg, 'test')
    check_classes(cfg, 'test')
    start_processes(cfg)
    return adapters_of_ranks(
        cfg,
        read_any(args.checkpoint),
        sorted(set(args.ranks)),
        cfg.work_dir,
        prefix=not args.compress,
    )


def chosen(found, names):
    """Return the metrics that the command line asks for."""
    unknown = [name for name in names or () if name not in found]
    if unknown:
        raise ValueError(
            f'--metrics: the test has no {unknown}; it has {list(found)}.'
        )
    return {name: found[name] for name in names or found}


def run(args):
    """Test as the command line says."""
    from mmflora.adapter_files.rank_curve import curve_table, draw_curve
    from mmflora.config.build import build_runner
    from mmflora.config.command_line import user_errors

    with user_errors():
        adapters = prepare(args)
    results = []
    for rank, _, cfg in adapters:
        found = build_runner(cfg).test()
        with user_errors():
            results.append(chosen(found, args.metrics))
        print(f'rank {rank} is tested: {results[-1]}', flush=True)
    ranks, parameters, _ = zip(*adapters, strict=True)
    print(curve_table(ranks, parameters, results))
    if args.plot:
        with user_errors():
            draw_curve(ranks, results, list(results[0]), args.plot)
        print(f'drawn to {args.plot}')


def main():
    """Read the command line, and test."""
    args = parse_args()
    from mmflora.checkpoint import trusted_checkpoints

    with trusted_checkpoints(args.trust_checkpoints):
        run(args)


if __name__ == '__main__':
    main()
