"""Search which layers of a supernet get an adapter, and of which rank.

python tools/search_adapters.py CONFIG epoch_12.pth --budget 200k --out found

It writes found.py, the config of the best architecture, found.safetensors, its
inherited weights, found.png, and found.jsonl, the log.  The same command goes
on with a search that was interrupted.
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

ENDINGS = ('.py', '.safetensors', '.png', '.jsonl')


def parse_args(argv=None):
    """Read the command line."""
    from mmflora.config.launch import add_arguments

    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('config', help="the supernet's config")
    parser.add_argument(
        'checkpoint', help='a checkpoint or an adapter of the supernet'
    )
    parser.add_argument(
        '--budget',
        required=True,
        help='the most parameters of all adapters together, such as 200k',
    )
    parser.add_argument(
        '--out', required=True, help='the files to write, without ending'
    )
    for name, kind, default, text in (
        ('population', int, 20, 'architectures in a generation'),
        ('generations', int, 10, 'generations; the first one is random'),
        ('parents', int, 5, 'of how many of the best the next ones are made'),
        ('mutation', float, 0.2, "share of a mutant's ranks drawn again"),
        ('seed', int, 0, 'seed of all draws'),
    ):
        parser.add_argument(
            f'--{name}',
            type=kind,
            default=default,
            help=f'{text} (default: {default})',
        )
    parser.add_argument(
        '--metric',
        help='what counts on the validation data (default: the metric of '
        'save_best, else the first mAP or mIoU, else the first)',
    )
    parser.add_argument(
        '--rule',
        choices=['greater', 'less'],
        default='greater',
        help='which values of the metric are better (default: greater)',
    )
    add_arguments(parser)
    return parser.parse_args(argv)


def prepare(args):
    """Check the command line, and read what it names."""
    from mmflora.adapter_files.read import read_any
    from mmflora.config.check import check_weights_file
    from mmflora.config.command_line import parse_count
    from mmflora.config.launch import load_config, start_processes
    from mmflora.search.evolution import Evolution
    from mmflora.search.search_run import Goal
    from mmflora.search.space import space_of

    budget = int(parse_count(args.budget, '--budget'))
    goal = Goal(budget, args.metric, args.rule)
    evolution = Evolution(
        args.population,
        args.generations,
        args.parents,
        args.mutation,
        args.seed,
    )
    cfg = load_config(args)
    check_weights_file('checkpoint', args.checkpoint)
    adapter = read_any(args.checkpoint)
    space = space_of(adapter)
    space.check_budget(budget)
    start_processes(cfg)
    return cfg, adapter, space, goal, evolution


def run(args):
    """Search as the command line says."""
    from mmengine.dist import is_main_process

    from mmflora.search.search_picture import draw_search
    from mmflora.search.search_result import architecture_table, write_found
    from mmflora.search.search_run import run_search

    def say(text):
        if is_main_process():
            print(text, flush=True)

    cfg, adapter, space, goal, evolution = prepare(args)
    out = Path(args.out)
    stem = out.with_suffix('') if out.suffix in ENDINGS else out
    log = stem.with_name(f'{stem.name}.jsonl')
    try:
        result = run_search(cfg, adapter, space, goal, evolution, log, say)
    except KeyboardInterrupt:
        say(f'\ninterrupted; the same command goes on from {log}')
        sys.exit(130)
    if not is_main_process():
        return
    picture = stem.with_name(f'{stem.name}.png')
    draw_search(space, result, goal.budget, picture)
    ranks = space.ranks(result.best)
    config, weights = write_found(cfg, adapter, ranks, stem)
    print(architecture_table(space, result.best))
    print(
        f'{picture}: the search\n'
        f'train it:       python tools/train.py {config}\n'
        f'or from these:  python tools/train.py {config} '
        f'--cfg-options load_from={weights}\n'
        f'test it:        python tools/test.py {config} {weights}'
    )


def main():
    """Read the command line, and search."""
    args = parse_args()
    from mmflora.checkpoint import trusted_checkpoints
    from mmflora.config.command_line import user_errors

    with user_errors(), trusted_checkpoints(args.trust_checkpoints):
        run(args)


if __name__ == '__main__':
    main()
