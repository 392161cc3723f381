"""Measure iterations, checkpoints and validation of configs, in one process.

    python benchmarks/waits/iterations.py CONFIG... --out FILE.json

A helper of benchmarks/run.py.  It imports mmflora only where a config does.
"""

import argparse
import importlib
import json
import os
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
os.environ.setdefault('OMP_NUM_THREADS', '1')

LOADERS = ('train_dataloader', 'val_dataloader', 'test_dataloader')


def parse_args(argv=None):
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__.strip().splitlines()[0]
    )
    add = parser.add_argument
    add('configs', nargs='+', type=Path)
    add('--out', type=Path, required=True, help='a JSON file to write')
    add('--iterations', type=int, default=12)
    add('--warmup', type=int, default=3, help='first ones, which do not count')
    add('--repeats', type=int, default=3, help='of checkpoint and validation')
    add('--keep', type=Path, help='keep work directories in this folder')
    return parser.parse_args(argv)


def settle(cfg, iterations, work_dir):
    """Let a config train so many iterations, loading in this process."""
    for name in LOADERS:
        cfg[name].update(num_workers=0, persistent_workers=False)
        cfg[name].pop('prefetch_factor', None)
    loader = cfg.train_dataloader
    if 'max_iters' in cfg.train_cfg:
        cfg.train_cfg.update(max_iters=iterations, val_interval=iterations)
    else:
        cfg.train_cfg.update(max_epochs=1, val_interval=1)
        loader.dataset.indices = iterations * loader.batch_size
    # By the same name MMEngine would take the visualizer of the run before.
    cfg.visualizer.name = cfg.experiment_name = work_dir.name
    cfg.work_dir, cfg.launcher = str(work_dir), 'none'


def build_runner(cfg):
    """Build the toolkit's own runner."""
    from mmengine.runner import Runner

    packages = [cfg.default_scope]
    if packages == ['mmrotate']:
        packages.insert(0, 'mmdet')
    for package in packages:
        setup = importlib.import_module(f'{package}.utils')
        setup.register_all_modules(init_default_scope=False)
    return Runner.from_cfg(cfg)


def measure(path, args, folder):
    """Train a config, and return what was measured."""
    from mmengine.config import Config
    from mmengine.hooks import CheckpointHook

    from benchmarks.waits.shares import Shares, WatchHook, repeat

    cfg = Config.fromfile(path)
    work_dir = folder / path.stem
    settle(cfg, args.warmup + args.iterations, work_dir)
    runner = build_runner(cfg)
    shares = Shares()
    runner.register_hook(WatchHook(shares))
    runner.train()
    rows = shares.rows[args.warmup :]
    names = dict.fromkeys(name for row in rows for name in row)
    found = dict(
        batch=cfg.train_dataloader.batch_size,
        shares={
            name: [row.get(name, (0.0, 0.0)) for row in rows] for name in names
        },
    )
    hook = next(x for x in runner.hooks if isinstance(x, CheckpointHook))
    times = repeat(lambda: hook._save_checkpoint(runner), args.repeats)
    found['checkpoint'] = dict(zip(('seconds', 'cpu'), times, strict=True))
    found['checkpoint']['bytes'] = Path(hook.last_ckpt).stat().st_size
    times = repeat(runner.val_loop.run, args.repeats)
    found['validation'] = dict(zip(('seconds', 'cpu'), times, strict=True))
    found['validation']['images'] = len(runner.val_dataloader.dataset)
    found['file'] = hook.last_ckpt
    return found


def main(argv=None):
    """Measure each config, and write."""
    args = parse_args(argv)
    from yapf.yapflib import yapf_api

    # MMEngine formats the config that it writes, which is no iteration.
    yapf_api.FormatCode = lambda text, **_: (text, False)
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.keep or Path(temporary)
        found = {
            str(path): measure(path, args, folder.absolute())
            for path in args.configs
        }
    args.out.write_text(json.dumps(found))


if __name__ == '__main__':
    main()
