"""FLoRA in a few minutes on a CPU: fine-tune a frozen detector base.

Draws two domains of shapes, trains a small Mask R-CNN on the first, then
fine-tunes for the second with its backbone frozen: once with a new head
alone, once with FLoRA adapters in the backbone as well.
"""

import argparse
import contextlib
import logging
import os
import sys
import time
from pathlib import Path

# Read when torch is loaded: waiting threads sleep instead of spinning.
os.environ.setdefault('OMP_WAIT_POLICY', 'PASSIVE')
os.environ.setdefault('GOMP_SPINCOUNT', '0')
ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT))

CONFIGS = ROOT / 'configs'
BASE = 'full/mask-rcnn_convnextv2-atto_full_shapes-source.py'
RUNS = {
    'frozen base': 'frozen/mask-rcnn_convnextv2-atto_frozen_shapes.py',
    'FLoRA': 'flora/mask-rcnn_convnextv2-atto_flora-r8_shapes.py',
}
METRICS = ('coco/bbox_mAP', 'coco/segm_mAP')


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
    return parser.parse_args()


class Clock:
    """Says what is going on, and how long it took so far.

    It keeps the terminal to itself: what the libraries print goes elsewhere.
    """

    def __init__(self):
        self.start = time.perf_counter()
        self.terminal = sys.stdout

    def say(self, text):
        """Print a line with the time since the start."""
        seconds = time.perf_counter() - self.start
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
        cfg.train_cfg.update(max_epochs=args.epochs)
        cfg.train_cfg.val_interval = args.epochs
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


def collect_predictions(runner, count):
    """Return pictures, ground truth and predictions of the first ones."""
    import mmcv
    import numpy as np
    import torch

    from mmflora.visualization.predictions import Instances

    runner.model.eval()
    dataset = runner.test_dataloader.dataset
    pictures, truth, found = [], [], []
    for index in range(count):
        data = dataset[index]
        batch = dict(
            inputs=[data['inputs']], data_samples=[data['data_samples']]
        )
        with torch.no_grad():
            sample = runner.model.test_step(batch)[0]
        picture = mmcv.imread(sample.img_path, channel_order='rgb')
        pictures.append(picture)
        own = sample.gt_instances.numpy()
        truth.append(
            Instances(
                np.asarray(own.bboxes),
                own.labels,
                masks=sample.gt_instances.masks.masks.astype(bool),
            )
        )
        predicted = sample.pred_instances.numpy()
        found.append(
            Instances(
                predicted.bboxes,
                predicted.labels,
                predicted.scores,
                predicted.masks.astype(bool),
            )
        )
    return pictures, truth, found


def comparison(rows):
    """Return the comparison as a table."""
    head = ('', 'trainable', 'in backbone', 'file MB', 'box mAP', 'mask mAP')
    widths = (26, 12, 13, 9, 9, 10)
    lines = []
    for line in (head, *rows):
        cells = [f'{line[0]:<{widths[0]}}']
        cells += [
            f'{cell:>{width}}'
            for cell, width in zip(line[1:], widths[1:], strict=True)
        ]
        lines.append(''.join(cells))
    lines.insert(1, '-' * sum(widths))
    return '\n'.join(lines)


def row(name, runner, metrics, file=None):
    """Return one line of the table."""
    trainable = sum(
        p.numel() for p in runner.model.parameters() if p.requires_grad
    )
    backbone = sum(
        p.numel()
        for p in runner.model.backbone.parameters()
        if p.requires_grad
    )
    size = '' if file is None else f'{file.stat().st_size / 1e6:.2f}'
    return (
        name,
        f'{trainable:,}' if file else '–',
        f'{backbone:,}' if file else '–',
        size,
        f'{metrics[METRICS[0]]:.3f}',
        f'{metrics[METRICS[1]]:.3f}',
    )


def save_weights_only(checkpoint, path):
    """Write a checkpoint without its optimizer, as one would share it."""
    import torch

    whole = torch.load(checkpoint, map_location='cpu', weights_only=False)
    kept = {key: whole[key] for key in ('meta', 'state_dict')}
    torch.save(kept, path)
    return path


def draw(out, work_dirs, pictures, columns, metainfo):
    """Draw the curves and the sheet of predictions."""
    from mmflora.visualization import (
        draw_curves,
        draw_predictions,
        read_scalars,
    )

    draw_curves(
        {name: read_scalars(path) for name, path in work_dirs.items()},
        {'loss': 'training loss', 'coco/bbox_mAP': 'box mAP on the target'},
        out / 'curves.png',
    )
    draw_predictions(
        pictures,
        columns,
        metainfo['classes'],
        metainfo['palette'],
        out / 'predictions.png',
    )


def prepare():
    """Load the libraries and draw the data."""
    import warnings

    warnings.filterwarnings('ignore')
    from mmdet.utils import register_all_modules

    import mmflora  # noqa: F401
    from mmflora.data import write_shapes

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


def run(args, out, clock):
    """Train and test everything; return the report."""
    from mmflora.engine import parameter_table

    clock.say('training a base on the source domain, every parameter')
    base, on_source, first = run_base(args, out, clock)
    rows, columns, work_dirs = [first], {}, {}
    for name, path in RUNS.items():
        clock.say(f'fine-tuning on the target domain: {name}')
        work_dir = out / name.replace(' ', '-').lower()
        cfg = load_config(path, args, work_dir, base)
        runner, _ = train(cfg, clock, name)
        clock.say(f'{name}: testing the saved file')
        file = save_weights_only(find_last(work_dir), work_dir / 'adapter.pth')
        runner, after = test(cfg, file, name)
        label = f'{name} + new head'
        rows.append(row(label, runner, after, file))
        pictures, truth, found = collect_predictions(runner, 6)
        columns.setdefault('ground truth', truth)
        columns[f'{label} (mAP {after[METRICS[0]]:.3f})'] = found
        work_dirs[label] = work_dir
    metainfo = runner.test_dataloader.dataset.metainfo
    draw(out, work_dirs, pictures, columns, metainfo)
    return (
        f'\nWhat trained with FLoRA:\n{parameter_table(runner.model)}\n\n'
        f'On the target domain:\n{comparison(rows)}\n\n'
        f'The full checkpoint has {base.stat().st_size / 1e6:.2f} MB. On its '
        f'own source domain the base reaches box mAP '
        f'{on_source[METRICS[0]]:.3f}.\n'
    )


def main():
    """Run the demo."""
    args = parse_args()
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    clock = Clock()
    clock.say('loading the libraries, drawing the two domains')
    chatter = out / 'libraries.log'
    with open(chatter, 'w') as file, contextlib.redirect_stdout(file):
        prepare()
        report = run(args, out, clock)
    print(report)
    (out / 'report.txt').write_text(report)
    clock.say(
        f'done. {out}/ holds predictions.png, curves.png, report.txt and the '
        'checkpoints'
    )


if __name__ == '__main__':
    main()
