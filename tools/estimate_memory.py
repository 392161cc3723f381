"""Predict the memory of a training step, without a GPU and without weights.

The config's own model runs on tensors that have shapes but no memory.
"""

import argparse
import json
import os
import sys
import time
from dataclasses import replace
from pathlib import Path

# Read when torch is loaded, see tools/train.py.
if not {'OMP_WAIT_POLICY', 'GOMP_SPINCOUNT'} & os.environ.keys():
    os.environ.update(OMP_WAIT_POLICY='PASSIVE', GOMP_SPINCOUNT='0')
# A clone works without being installed; what is installed comes first.
sys.path.append(str(Path(__file__).resolve().parents[1]))


def parse_args(argv=None):
    """Read the command line."""
    from mmflora.config.command_line import ConfigOptions, add_trust_option
    from mmflora.config.peft.arguments import add_peft_arguments

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
        help='objects in each image, or classes, for segmenters that match '
        'masks to them (default: 20)',
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
        action=ConfigOptions,
        metavar='KEY=VALUE',
        help='change settings of the config, as tools/train.py does',
    )
    add_peft_arguments(parser)
    add_trust_option(parser)
    return parser.parse_args(argv)


def estimate_all(cfg, shape, only_own):
    """Estimate each option, at the batch and at one image more."""
    from mmflora.config.build import register_toolkit
    from mmflora.memory_estimate import AS_IT_IS, options, predict

    register_toolkit(cfg)
    shapes = [shape, replace(shape, images=shape.images + 1)]
    chosen = [AS_IT_IS] if only_own else options(cfg)
    found = {}
    for number, option in enumerate(chosen, start=1):
        start = time.perf_counter()
        try:
            found[option.name] = pair = predict(option.apply(cfg), shapes)
            result = f'peak {pair[0].peak / 2**30:.2f} GB'
        except ImportError as error:
            if option is AS_IT_IS:
                raise ValueError(str(error)) from error
            result = f'left out. {error}'
        seconds = time.perf_counter() - start
        say(
            f'{number}/{len(chosen)} {option.name}: {result} ({seconds:.0f} s)'
        )
    return found


def say(line):
    """Print progress, apart from the report."""
    print(line, file=sys.stderr, flush=True)


def fewest_images(cfg, forecast):
    """Return 2 where room for one image is of no use, else 1.

    A batch norm has nothing to norm over where an image gives one value.
    """
    from mmflora.memory_estimate import predict

    if not any(
        forecast.room(option, card).largest_batch == 1
        for option in forecast.pairs
        for card in forecast.cards
    ):
        return 1
    say('Is one image enough to train?')
    try:
        predict(cfg, [replace(forecast.shape, images=1)])
    except ValueError as error:
        say(f'no: {error}')
        return 2
    return 1


def report(args):
    """Return the text that the command line asks for."""
    from mmflora import memory_estimate
    from mmflora.config.peft.arguments import read_adapted
    from mmflora.config.printed_report import check_folder

    if args.measure:
        memory_estimate.check_gpu()
    cards = [memory_estimate.parse_card(text) for text in args.gpu]
    check_folder('--out', args.out)
    check_folder('--plot', args.plot)
    size = args.size and memory_estimate.parse_image_size(args.size)
    cfg = read_adapted(args.config, args, args.cfg_options, False)
    memory_estimate.check_trains(cfg)
    shape = memory_estimate.batch_shape(cfg, args.batch, size, args.objects)
    forecast = memory_estimate.Forecast(
        name=Path(args.config).stem,
        shape=shape,
        pairs=estimate_all(cfg, shape, args.as_is),
        cards=cards,
        sharding=str(cfg.get('strategy', {}).get('type', '')),
    )
    forecast = replace(forecast, fewest=fewest_images(cfg, forecast))
    if args.out:
        figures = json.dumps(forecast.as_json(), indent=1)
        Path(args.out).write_text(f'{figures}\n')
    if args.plot:
        from mmflora.memory_estimate.plot import plot

        plot(forecast, args.plot)
    text = str(forecast)
    if args.measure:
        predicted, measured = (
            size / 2**30
            for size in (
                forecast.own.peak,
                memory_estimate.measure_peak(cfg, shape),
            )
        )
        text += (
            f'\n\nPeak predicted {predicted:.3f} GB, measured '
            f'{measured:.3f} GB: the forecast is off by '
            f'{100 * (predicted / measured - 1):+.1f} %.'
        )
    return text


def main():
    """Predict as the command line says."""
    from mmflora.checkpoint import trusted_checkpoints
    from mmflora.config.printed_report import print_report

    args = parse_args()
    with trusted_checkpoints(args.trust_checkpoints):
        print_report(lambda: report(args))


if __name__ == '__main__':
    main()
