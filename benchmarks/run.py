"""Time what a user of the tools waits for, beside the toolkits' own.

    python benchmarks/run.py

Start, iteration, checkpoint, validation, test, merge and inference, of small
models on the CPU. The sides of a comparison take turns, and the seconds of
the processor are taken beside those that pass: they also mean something on a
busy machine. Each measurement is a line of docs/benchmarks/run.jsonl, from
which docs/benchmarks/run.md is written. --only PART measures a part again and
keeps the others.
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path

# Read when torch is loaded, here and in all processes that are started.
os.environ.update(OMP_NUM_THREADS='1', OMP_WAIT_POLICY='PASSIVE')
ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

SMALL = {
    'mmdet': 'mask-rcnn_convnextv2-atto',
    'mmseg': 'upernet_convnextv2-atto',
    'mmrotate': 'oriented-rcnn-le90_convnextv2-atto',
}
"""The model of the small configs, by toolkit."""
RESULTS = ROOT / 'docs/benchmarks'


def parse_args(argv=None):
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__.strip().splitlines()[0]
    )
    add = parser.add_argument
    add('--rounds', type=int, default=5, help='of commands; others have more')
    add('--iterations', type=int, default=16, help='of each training')
    add('--cases', nargs='+', choices=SMALL, default=[*SMALL])
    add('--only', nargs='+', choices=PARTS, default=[*PARTS])
    add('--small', default='*', help='pattern of the small configs')
    add('--work-dir', type=Path, help='default: a temporary folder')
    add('--out', type=Path, default=RESULTS, help='folder of the results')
    args = parser.parse_args(argv)
    if args.rounds < 1 or args.iterations < 1:
        parser.error('--rounds, --iterations: at least 1')
    return args


def measure_start(place, case, args, results):
    """From the command to the first iteration."""
    from benchmarks.waits.commands import interleave, start_commands

    found = interleave(place, start_commands(place, case), args.rounds)
    for side, values in found.items():
        results.add('start', case, side, **values)


def train_case(place, case, args, rounds):
    """Train both sides of a case in turns; return what was measured."""
    from benchmarks.waits.turns import iterations_of, join

    found = {side: [] for side in ('stock', 'adapted')}
    for turn in range(rounds):
        for side in (*found,) if turn % 2 else (*reversed(found),):
            config = place.folder / place.config(case, side)
            measured = iterations_of(place, [config], args.iterations)
            found[side] += measured.values()
    return {side: join(values) for side, values in found.items()}


def measure_iterations(place, case, args, results):
    """Iterations, checkpoints and validation, stock and adapted."""
    rounds = min(2, args.rounds)
    for side, measured in train_case(place, case, args, rounds).items():
        del measured['file']
        results.add('iteration', case, side, **measured)


def measure_small(place, case, args, results):
    """The same of the small configs, one after another in one process."""
    from benchmarks.waits.turns import iterations_of
    from benchmarks.waits.workspace import small_configs, write_stock_runtime

    model = SMALL[case]
    stock = write_stock_runtime(model, place.folder)
    configs = [path for path in small_configs(model) if path.match(args.small)]
    measured = iterations_of(place, [stock, *configs], args.iterations, 1)
    for path in (stock, *configs):
        side = 'stock runtime' if path == stock else path.stem.split('_')[2]
        del measured[str(path)]['file']
        results.add('small', model, side, **measured[str(path)])


def measure_use(place, case, args, results):
    """Test, merge and inference of what was trained."""
    from benchmarks.waits import commands
    from benchmarks.waits.turns import inference_of

    trained = train_case(place, case, args, 1)
    files = {side: measured['file'] for side, measured in trained.items()}
    files['adapter'] = commands.export_adapter(place, files['adapted'])
    merge = commands.merge_command(place, case, files['adapted'])
    found = commands.interleave(place, {'merge': merge}, args.rounds)
    results.add('merge', case, 'merge', **found['merge'])
    files['merged'] = 'merged.pth'
    test = commands.test_commands(place, case, files)
    for side, values in commands.interleave(place, test, args.rounds).items():
        results.add('test', case, side, **values)
    for side, values in inference_of(place, case, files).items():
        results.add('inference', case, side, **values)


PARTS = {
    'start': measure_start,
    'iterations': measure_iterations,
    'small': measure_small,
    'use': measure_use,
}


def main(argv=None):
    """Measure, and write the page."""
    args = parse_args(argv)
    from benchmarks.line_results import Results
    from benchmarks.waits.page import page
    from benchmarks.waits.workspace import Workspace

    with tempfile.TemporaryDirectory() as temporary:
        place = Workspace(args.work_dir or Path(temporary))
        place.write_data()
        results = Results(args.out, 'run', page)
        for case in args.cases:
            place.write_case(case)
            for name in args.only:
                PARTS[name](place, case, args, results)
    print(results.page)


if __name__ == '__main__':
    main()
