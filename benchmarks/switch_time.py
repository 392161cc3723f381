"""How long it takes to switch between two adapters on one base.

    python benchmarks/switch_time.py CONFIG

Base and adapters are random, which changes no time.
"""

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))


def parse_args(argv=None):
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__.strip().splitlines()[0]
    )
    parser.add_argument('config', help='path of a config')
    parser.add_argument('--switches', type=int, default=40)
    parser.add_argument('--device', default='cpu')
    parser.add_argument('--out', type=Path, help='a JSON file to write')
    return parser.parse_args(argv)


def run(args, folder):
    """Write two adapters, load both, and switch between them."""
    import torch

    from benchmarks.adapter_files import prepare
    from mmflora.adapter_files import from_checkpoint, write_adapter
    from mmflora.tasks import TaskSet

    prepare(folder, args.config)
    tasks = TaskSet(args.device)
    for name in ('first', 'second'):
        adapter = from_checkpoint(folder / f'{name}.pth')
        write_adapter(adapter, folder / name)
        tasks.load(name, str(folder / 'config.py'), folder / name)
    times = []
    for index in range(args.switches):
        started = time.perf_counter()
        tasks.activate(('first', 'second')[index % 2])
        if args.device == 'cuda':
            torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    return dict(
        seconds=statistics.median(times),
        times=times,
        base=tasks.base.bytes(),
        more=tasks.own_bytes('second'),
    )


def main(argv=None):
    """Measure, print and write."""
    args = parse_args(argv)
    with TemporaryDirectory() as folder:
        found = run(args, Path(folder))
    if args.out:
        args.out.write_text(json.dumps(found, indent=1) + '\n')
    print(json.dumps(found))


if __name__ == '__main__':
    main()
