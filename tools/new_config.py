"""Make a config for a folder of annotated images, and check the folder.

Finds out the format of the annotations, checks images and annotations, and
writes a short config that inherits from another one. Beside it go a report, a
picture of annotated samples, and the annotations as far as they had to be
converted. The folder itself is not changed.
"""

import argparse
import sys
from pathlib import Path

# A clone works without being installed; what is installed comes first.
sys.path.append(str(Path(__file__).resolve().parents[1]))


def parse_args(argv=None):
    """Read the command line."""
    from mmflora.config.command_line import add_trust_option
    from mmflora.config.peft.arguments import add_peft_arguments
    from mmflora.new_config.annotated_images import TASKS
    from mmflora.new_config.formats_of_data import READERS
    from mmflora.new_config.splits import DEFAULT_PARTS

    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        '--data', required=True, metavar='FOLDER', help='images, annotated'
    )
    parser.add_argument(
        '--like',
        metavar='CONFIG',
        help="the config to start from: its path, or a toolkit's own, such as "
        'mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py (without it, '
        'fitting ones are named)',
    )
    parser.add_argument(
        '--out', required=True, metavar='FILE.py', help='the config to write'
    )
    add_peft_arguments(parser)
    add_trust_option(parser)
    parser.add_argument(
        '--format',
        choices=READERS,
        help='of the annotations (default: found out by their content)',
    )
    parser.add_argument(
        '--task',
        choices=TASKS,
        help='what to use the annotations as, where that loses something, '
        'such as upright boxes around rotated ones',
    )
    parser.add_argument(
        '--classes',
        nargs='+',
        metavar='NAME',
        help='the classes, in order (default: those of the annotations); '
        'objects of others are left out',
    )
    parser.add_argument(
        '--ignore',
        nargs='+',
        type=int,
        default=(),
        metavar='VALUE',
        help='values of label maps that are no class (255 never is)',
    )
    parser.add_argument(
        '--resplit',
        action='store_true',
        help="divide all images anew, whatever the folder's own splits are",
    )
    parser.add_argument(
        '--split',
        nargs=3,
        type=float,
        default=DEFAULT_PARTS,
        metavar=('TRAIN', 'VAL', 'TEST'),
        help='parts of the images, where the folder has no splits '
        f'(default: {" ".join(map(str, DEFAULT_PARTS))})',
    )
    parser.add_argument(
        '--seed', type=int, default=0, help='of the splits (default: 0)'
    )
    parser.add_argument(
        '--batch-size',
        type=int,
        metavar='N',
        help="images per step on one GPU (default: the config's)",
    )
    parser.add_argument(
        '--gpus',
        type=int,
        default=1,
        metavar='N',
        help='how many GPUs will train: the learning rate is for all of them '
        '(default: 1)',
    )
    parser.add_argument(
        '--epochs',
        type=int,
        metavar='N',
        help='passes over the data (default: see docs/your-own-data.md)',
    )
    parser.add_argument(
        '--force',
        action='store_true',
        help='replace the config and what stands beside it',
    )
    return parser.parse_args(argv)


def main():
    """Read the command line, write the config, print the report."""
    args = vars(parse_args())
    from mmflora.checkpoint import trusted_checkpoints
    from mmflora.config.printed_report import print_report
    from mmflora.new_config.make_config import make_config
    from mmflora.new_config.wishes import Wishes

    with trusted_checkpoints(args.pop('trust_checkpoints')):
        print_report(lambda: make_config(Wishes(**args)))


if __name__ == '__main__':
    main()
