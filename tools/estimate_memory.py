"""Predict the memory of a training step, without a GPU and without weights.

The config's own model runs on tensors that have shapes but no memory.
"""

import argparse
import contextlib
import json
import os
import sys
import time
import warnings
from pathlib import Path

# Read when torch is loaded, see tools/train.py.
if not {'OMP_WAIT_POLICY', 'GOMP_SPINCOUNT'} & os.environ.keys():
    os.environ.update(OMP_WAIT_POLICY='PASSIVE', GOMP_SPINCOUNT='0')
# A clone works without being installed; what is installed comes first.
sys.path.append(str(Path(__file__).resolve().parents[1]))


def parse_args(argv=None):
    """Read the command line."""
    from mmengine.config import DictAction

    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add('config', help='path of the config file')
    add(
        '--gpu',
        nargs='+',
        default=['24GB', '40GB', '80GB'],
        metavar='SIZE',
        help='memory of the GPUs to say it for (default: 24GB 40GB 80GB)',
    )
    add('--batch', type=int, help="images per GPU (default: the config's)")
    add(
        '--size',
        metavar='HxW',
        help="images' height and width (default: the training pipeline's)",
    )
    add(
        '--objects',
        type=int,
        default=20,
        help='objects in each image, for detectors (default: 20)',
    )
    add(
        '--as-is',
        action='store_true',
        help='the config as it is, without what its backbone offers beside',
    )
    add('--out', metavar='FILE.json', help='also write all figures here')
    add('--plot', metavar='FILE.png', help='also draw bars here')
    add(
        '--measure',
        action='store_true',
        help='also run the step on this GPU and print by how much the '
        'forecast is off',
    )
    add(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        metavar='KEY=VALUE',
        help='change settings of the config, as tools/train.py does',
    )
    return parser.parse_args(argv)


def load(args):
    """Read the config and what its batches are like."""
    from mmflora.config.build import read_config
    from mmflora.memory_estimate import (
        batch_shape,
        check_trains,
        parse_image_size,
    )

    size = parse_image_size(args.size) if args.size else None
    cfg = read_config(args.config, args.cfg_options)
    check_trains(cfg)
    return cfg, batch_shape(cfg, args.batch, size, args.objects)


def check_files(args):
    """Check that what is asked for can be written."""
    for option in ('out', 'plot'):
        path = getattr(args, option)
        if path and not Path(path).absolute().parent.is_dir():
            raise FileNotFoundError(
                f"--{option}: the folder of '{path}' is not there."
            )


def say(line):
    """Print progress, apart from the report."""
    print(line, file=sys.stderr, flush=True)


def estimate_all(cfg, shape, only_own):
    """Estimate each option, at the batch and at one image more."""
    from dataclasses import replace

    from mmflora.config.build import register_toolkit
    from mmflora.memory_estimate import AS_IT_IS, options, predict_batches

    register_toolkit(cfg)
    larger = replace(shape, images=shape.images + 1)
    chosen = [AS_IT_IS] if only_own else options(cfg)
    found = {}
    for number, option in enumerate(chosen, start=1):
        start = time.perf_counter()
        changed = option.apply(cfg)
        try:
            pair = predict_batches(changed, [shape, larger])
        except ImportError as error:
            if option is AS_IT_IS:
                raise ValueError(str(error)) from error
            say(f'{number}/{len(chosen)} {option.name}: left out. {error}')
            continue
        found[option.name] = pair
        peak = pair[0].peak / 2**30
        say(
            f'{number}/{len(chosen)} {option.name}: peak {peak:.2f} GB '
            f'({time.perf_counter() - start:.0f} s)'
        )
    return found


def fewest_images(cfg, shape, pairs, cards):
    """Return 2 where room for one image is of no use, else 1.

    A batch norm has nothing to norm over where an image gives one value.
    """
    from dataclasses import replace

    from mmflora.memory_estimate import predict, room

    fits = (
        room(card, *pair).largest_batch
        for card in cards
        for pair in pairs.values()
    )
    if 1 not in fits:
        return 1
    say('Is one image enough to train?')
    try:
        predict(cfg, replace(shape, images=1))
    except ValueError as error:
        say(f'no: {error}')
        return 2
    return 1


def report(args):
    """Return the text that the command line asks for."""
    from mmflora.memory_estimate import check_gpu, parse_card, reporting

    if args.measure:
        check_gpu()
    cards = [parse_card(text) for text in args.gpu]
    check_files(args)
    cfg, shape = load(args)
    name = Path(args.config).stem
    pairs = estimate_all(cfg, shape, args.as_is)
    own = next(iter(pairs.values()))[0]
    fewest = fewest_images(cfg, shape, pairs, cards)
    sharding = str(cfg.get('strategy', {}).get('type', ''))
    parts = [
        reporting.about(name, shape, own, sharding),
        reporting.terms_table(own),
        reporting.options_table(pairs, cards, fewest),
        '\n'.join(reporting.advice(pairs, cards, fewest)),
        reporting.LEGEND.strip(),
    ]
    if args.out:
        found = reporting.as_json(name, shape, pairs, cards, fewest)
        Path(args.out).write_text(json.dumps(found, indent=1) + '\n')
    if args.plot:
        from mmflora.memory_estimate.plot import plot

        title = f'{name}\n{shape.images} x {shape.height}x{shape.width}'
        estimates = {key: pair[0] for key, pair in pairs.items()}
        plot(estimates, cards, title, args.plot)
    if args.measure:
        parts.append(compare(cfg, shape, own))
    return '\n\n'.join(parts)


def compare(cfg, shape, predicted):
    """Run the step on the GPU and say how far the forecast is off."""
    from mmflora.memory_estimate import measure_peak

    measured = measure_peak(cfg, shape)
    off = 100 * (predicted.peak / measured - 1)
    return (
        f'Peak predicted {predicted.peak / 2**30:.3f} GB, measured '
        f'{measured / 2**30:.3f} GB: the forecast is off by {off:+.1f} %.'
    )


def quiet():
    """Keep what building a model logs from the report."""
    from mmengine.logging import MMLogger

    MMLogger.get_current_instance().setLevel('ERROR')
    warnings.simplefilter('ignore')


def main():
    """Predict as the command line says."""
    args = parse_args()
    quiet()
    try:
        # What libraries print on the way is not part of the report.
        with contextlib.redirect_stdout(sys.stderr):
            text = report(args)
    except (FileNotFoundError, TypeError, ValueError) as error:
        sys.exit(f'error: {error}')
    print(text)


if __name__ == '__main__':
    main()
