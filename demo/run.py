"""FLoRA in a few minutes on a CPU: fine-tune a frozen detector base.

Draws two domains of shapes, trains a small Mask R-CNN on the first, then
fine-tunes for the second with its backbone frozen: once with a new head
alone, once with FLoRA adapters in the backbone as well.  These two run side by
side, a process and a core each.
"""

import argparse
import contextlib
import logging
import os
import pickle
import subprocess
import sys
import time
from pathlib import Path

# Read when torch is loaded. So small a model gains nothing from a second
# thread; waiting threads sleep instead of spinning.
for _name, _value in {
    'OMP_NUM_THREADS': '1',
    'OMP_WAIT_POLICY': 'PASSIVE',
    'GOMP_SPINCOUNT': '0',
}.items():
    os.environ.setdefault(_name, _value)
ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT))

from demo.report import (  # noqa: E402
    METRICS,
    collect_predictions,
    comparison,
    draw,
    row,
)

CONFIGS = ROOT / 'configs'
BASE = 'full/mask-rcnn_convnextv2-atto_full_shapes-source.py'
RUNS = {
    'frozen base': 'frozen/mask-rcnn_convnextv2-atto_frozen_shapes.py',
    'FLoRA': 'flora/mask-rcnn_convnextv2-atto_flora-r16_shapes.py',
}


def parse_args():
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__.strip().splitlines()[0]
    )
    parser.add_argument(
        '--out', default='work_dirs/demo', help='where everything goes'
    )
    parser.add_argument('--seed', type=int, default=0, help='random seed')
    parser.add_argument(
        '--epochs', type=int, help='fewer or more epochs, for all three runs'
    )
    # How the demo starts its own processes.
    parser.add_argument('--run', choices=RUNS, help=argparse.SUPPRESS)
    parser.add_argument('--start', type=float, help=argparse.SUPPRESS)
    return parser.parse_args()


class Clock:
    """Says what is going on, and how long it took so far.

    It keeps the terminal to itself: what the libraries print goes elsewhere.
    """

    def __init__(self, start=None):
        self.start = time.time() if start is None else start
        self.terminal = sys.stdout

    def say(self, text):
        """Print a line with the time since the start."""
        seconds = time.time() - self.start
        stamp = f'[{int(seconds // 60)}:{seconds % 60:04.1f}]'
        print(stamp, text, file=self.terminal, flush=True)


def progress_hook(clock, title, every=40):
    """Return a hook that prints the loss now and then."""
    from mmengine.hooks import Hook

    class Progress(Hook):
        priority = 'VERY_LOW'

        def after_train_iter(self, runner, *_, **__):
            done = runner.iter + 1
            if done % every == 0 or done == runner.max_iters:
                scalars = runner.message_hub.log_scalars
                loss = scalars['train/loss'].mean(every)
                clock.say(
                    f'{title}: iteration {done}/{runner.max_iters}, '
                    f'loss {loss:.3f}'
                )

        def before_val(self, runner):
            clock.say(f'{title}: evaluating')

        def after_val_epoch(self, runner, metrics=None):
            box, mask = (metrics[f'coco/{k}_mAP'] for k in ('bbox', 'segm'))
            clock.say(f'{title}: box mAP {box:.3f}, mask mAP {mask:.3f}')

    return Progress()


def load_config(path, args, work_dir, base=None):
    """Read one of the demo's configs and point it to this run's folders."""
    from mmengine.config import Config

    cfg = Config.fromfile(CONFIGS / path)
    cfg.work_dir = str(work_dir)
    cfg.log_level = 'WARNING'
    cfg.randomness = dict(seed=args.seed)
    cfg.default_hooks.logger.interval = 10
    if base is not None:
        cfg.model.backbone.init_cfg.checkpoint = str(base)
    if args.epochs:
        cfg.train_cfg.max_epochs = args.epochs
        cfg.param_scheduler[-1].end = args.epochs
    return cfg


def named(cfg, title):
    """Name a run and its visualizer: by name MMEngine would share them."""
    cfg.experiment_name = f'{title}_{time.time_ns()}'.replace(' ', '-')
    cfg.visualizer.name = cfg.experiment_name
    return cfg


def train(cfg, clock, title):
    """Train one config; return the runner and its last metrics."""
    from mmengine.runner import Runner

    runner = Runner.from_cfg(named(cfg, title))
    runner.register_hook(progress_hook(clock, title))
    runner.train()
    scalars = runner.message_hub.log_scalars
    return runner, {name: scalars[f'val/{name}'].current() for name in METRICS}


def test(cfg, checkpoint, title):
    """Test a checkpoint as tools/test.py does; return runner and metrics."""
    from mmengine.runner import Runner

    cfg.load_from = str(checkpoint)
    runner = Runner.from_cfg(named(cfg, f'{title}-test'))
    metrics = runner.test()
    return runner, {name: metrics[name] for name in METRICS}


def find_last(work_dir):
    """Return the last checkpoint of a work directory."""
    from mmengine.runner import find_latest_checkpoint

    return Path(find_latest_checkpoint(str(work_dir)))


def save_weights_only(checkpoint, path):
    """Write a checkpoint without its optimizer, as one would share it."""
    import torch

    whole = torch.load(checkpoint, map_location='cpu', weights_only=False)
    kept = {key: whole[key] for key in ('meta', 'state_dict')}
    torch.save(kept, path)
    return path


def prepare():
    """Load the libraries and draw the data."""
    import warnings

    warnings.filterwarnings('ignore')
    from mmdet.utils import register_all_modules

    import mmflora  # noqa: F401
    from demo.shapes import write_shapes

    register_all_modules(init_default_scope=True)
    logging.getLogger('mmengine').setLevel(logging.ERROR)
    for domain in ('source', 'target'):
        write_shapes('data/shapes', domain, num_train=320, num_val=80, seed=0)


def run_base(args, out, clock):
    """Train the base on the source; test it on the target as it is."""
    source = load_config(BASE, args, out / 'base')
    _, on_source = train(source, clock, 'base')
    target = load_config(RUNS['FLoRA'], args, out / 'unadapted')
    source.merge_from_dict(
        dict(
            test_dataloader=target.test_dataloader,
            test_evaluator=target.test_evaluator,
            work_dir=str(out / 'unadapted'),
        )
    )
    clock.say('testing the base on the target domain, as it is')
    base = out / 'base/base.pth'
    runner, before = test(source, base, 'base')
    return base, on_source, row('base detector, as it is', runner, before)


def run_target(args, out, clock, name):
    """Fine-tune on the target, test the saved file, keep the result."""
    from mmflora.engine import parameter_table

    work_dir = run_dir(out, name)
    cfg = load_config(RUNS[name], args, work_dir, out / 'base/base.pth')
    train(cfg, clock, name)
    clock.say(f'{name}: testing the saved file')
    file = save_weights_only(find_last(work_dir), work_dir / 'adapter.pth')
    runner, after = test(cfg, file, name)
    pictures, truth, found = collect_predictions(runner, 4)
    result = dict(
        row=row(f'{name} + new head', runner, after, file),
        title=f'{name}: mAP {after[METRICS[0]]:.3f}',
        table=parameter_table(runner.model),
        metainfo=runner.test_dataloader.dataset.metainfo,
        pictures=pictures,
        truth=truth,
        found=found,
    )
    with open(work_dir / 'result.pkl', 'wb') as file:
        pickle.dump(result, file)


def run_dir(out, name):
    """Return the work directory of a fine-tuning."""
    return out / name.replace(' ', '-').lower()


def run_targets(args, clock):
    """Run both fine-tunings side by side; return their results.

    Raises:
        SystemExit: If one of them fails; its error is on the screen.
    """
    command = [sys.executable, __file__, '--out', args.out]
    command += ['--seed', str(args.seed), '--start', str(clock.start)]
    if args.epochs:
        command += ['--epochs', str(args.epochs)]
    processes = [
        subprocess.Popen([*command, '--run', name], stdout=clock.terminal)
        for name in RUNS
    ]
    codes = [process.wait() for process in processes]
    if any(codes):
        sys.exit('error: a fine-tuning failed, see above')
    results = {}
    for name in RUNS:
        with open(run_dir(Path(args.out), name) / 'result.pkl', 'rb') as file:
            results[name] = pickle.load(file)
    return results


def run(args, out, clock):
    """Train and test everything; return the report."""
    clock.say('training a base on the source domain, every parameter')
    base, on_source, first = run_base(args, out, clock)
    clock.say('fine-tuning on the target domain: two runs side by side')
    results = run_targets(args, clock)
    last = results['FLoRA']
    columns = {'ground truth': last['truth']}
    columns.update({r['title']: r['found'] for r in results.values()})
    work_dirs = {name: run_dir(out, name) for name in RUNS}
    draw(out, work_dirs, last['pictures'], columns, last['metainfo'])
    rows = [first, *(result['row'] for result in results.values())]
    return (
        f'\nWhat trained with FLoRA:\n{last["table"]}\n\n'
        f'On the target domain:\n{comparison(rows)}\n\n'
        f'The full checkpoint has {base.stat().st_size / 1e6:.2f} MB. On its '
        f'own source domain the base reaches box mAP '
        f'{on_source[METRICS[0]]:.3f}.\n'
    )


def main():
    """Run the demo, or one of its fine-tunings."""
    args = parse_args()
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    clock = Clock(args.start)
    if args.run is None:
        clock.say('loading the libraries, drawing the two domains')
    chatter = out / f'libraries-{(args.run or "base").replace(" ", "-")}.log'
    with open(chatter, 'w') as file, contextlib.redirect_stdout(file):
        prepare()
        if args.run is not None:
            run_target(args, out, clock, args.run)
            return
        report = run(args, out, clock)
    print(report)
    (out / 'report.txt').write_text(report)
    clock.say(
        f'done. {out}/ holds predictions.png, curves.png, report.txt and the '
        'checkpoints'
    )


if __name__ == '__main__':
    main()
