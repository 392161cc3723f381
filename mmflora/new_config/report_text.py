"""What is said of a new config: in its report and in its comments."""

import textwrap
from collections import Counter
from pathlib import Path

from mmengine.config import Config

from mmflora.config.peft.changes import Change

from .annotated_images import SPLITS, TASKS, ImageSet
from .formats_of_data import READERS
from .settings.run_length import RunLength
from .wishes import Wishes


def length_text(length: RunLength, cfg: Config) -> str:
    """Say how long a run is, and how often it validates."""
    passes = f'{length.epochs} epochs of {length.per_epoch} iterations'
    if not length.by_epoch:
        passes = (
            f'{length.iterations} iterations, '
            f'{length.iterations / length.per_epoch:.0f} passes over the data'
        )
    unit = 'epochs' if length.by_epoch else 'iterations'
    return (
        f'{passes} (batch {length.batch_size}, {length.images} images); '
        f'validation every {cfg.train_cfg.val_interval} {unit}'
    )


def comments(
    wishes: Wishes, settings: dict[str, str], changes: list[Change]
) -> dict[str, str]:
    """Return the comments of the config, for each of its sections."""
    texts = dict(
        file=f'{wishes.like}\non {wishes.data}. Written by '
        'tools/new_config.py.',
        classes='The classes, and where the data is.',
        data=f'Images: {settings["scale"]}.',
        schedule=f'{settings["length"]}.\nLearning rate: {settings["rate"]}.',
        model='Heads for these classes.',
    )
    if changes:
        frozen = ', '.join(wishes.peft_parts or ['the backbone'])
        texts['model'] += f' {wishes.peft}, frozen: {frozen}.'
        texts['rest'] = 'What a run with a frozen base needs.'
    return {
        key: '\n'.join(
            line
            for part in text.splitlines()
            for line in textwrap.wrap(part, 77)
        )
        for key, text in texts.items()
    }


def facts(data: ImageSet, wishes: Wishes, settings: dict[str, str]) -> str:
    """Return the first part of the report."""
    numbers = ', '.join(
        f'{split} {len(data.split(split))}' for split in SPLITS
    )
    rows = {
        'folder': f'{wishes.data}: {READERS[data.format].title}, used as '
        f'{TASKS[data.task]}',
        'images': f'{numbers} ({settings["split"]})',
        'annotations': settings['annotations'],
        'image size': settings['scale'],
        'training': settings['length'],
        'learning rate': settings['rate'],
    }
    lines = [f'{name:<14} {text}' for name, text in rows.items()]
    lines += ['', *_class_table(data), '', 'What was found']
    return '\n'.join(lines)


def _class_table(data: ImageSet) -> list[str]:
    """Return how much of each class there is in each split."""
    if data.values:
        what = 'pixels, %'
        tables = [_pixel_shares(data, split) for split in SPLITS]
    else:
        what = 'objects'
        tables = [
            {name: str(n) for name, n in data.counts(split).items()}
            for split in SPLITS
        ]
    width = max(14, *(len(name) for name in data.classes))
    lines = [f'{what:<{width}} {"train":>8}{"val":>8}{"test":>8}']
    for name in data.classes:
        cells = ''.join(f'{table.get(name, "0"):>8}' for table in tables)
        lines.append(f'{name:<{width}} {cells}')
    return lines


def _pixel_shares(data: ImageSet, split: str) -> dict[str, str]:
    counts: Counter[int] = Counter()
    for image in data.split(split):
        for value, count in image.pixels.items():
            counts[data.values[value]] += count
    whole = sum(counts.values()) or 1
    return {
        name: f'{100 * counts[i] / whole:.2f}'
        for i, name in enumerate(data.classes)
    }


def next_steps(out: Path, report: Path, sheet: Path, cfg: Config) -> str:
    """Say what was written, and the commands to go on with."""
    name = f'work_dirs/{out.stem}'
    last = cfg.train_cfg.get('max_epochs')
    checkpoint = f'epoch_{last}' if last else f'iter_{cfg.train_cfg.max_iters}'
    return '\n'.join(
        (
            f'Written: {out}, {report}, {sheet}',
            'Look at the samples, then:',
            f'  python tools/train.py {out}',
            f'  python tools/test.py {out} {name}/{checkpoint}.pth '
            f'--show-dir {out.stem}_predictions',
        )
    )
