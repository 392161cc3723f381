"""Export a model's graph for other runtimes, and check what it computes."""

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


def parse_args(argv=None):
    """Read the command line."""
    from mmflora.config.command_line import ConfigOptions, add_trust_option

    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog='The graph takes preprocessed images, any number of one size. '
        "It gives a segmentor's logits; of a detector the neck's features "
        'and the outputs of its dense head, before boxes are chosen.',
    )
    parser.add_argument('config', help='path of a config, adapted or plain')
    parser.add_argument(
        'checkpoint', help='its checkpoint; adapters are merged'
    )
    parser.add_argument(
        '--out',
        required=True,
        help='the file to write: .onnx, or .pt2 for torch.export',
    )
    parser.add_argument(
        '--backbone-only', action='store_true', help='the backbone alone'
    )
    parser.add_argument(
        '--size',
        nargs=2,
        type=int,
        metavar=('HEIGHT', 'WIDTH'),
        help="size of the images (default: the config's crop, else 256 256)",
    )
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=ConfigOptions,
        metavar='KEY=VALUE',
        help='change settings of the config: a.b=1',
    )
    add_trust_option(parser)
    return parser.parse_args(argv)


def export(args):
    """Export as the command line says; return the largest difference."""
    from mmflora.config.build import read_config
    from mmflora.export import build_stock, export_graph
    from mmflora.export.dense_outputs import image_size, random_images

    cfg = read_config(args.config, args.cfg_options)
    size = tuple(args.size) if args.size else image_size(cfg.model)
    model = build_stock(cfg, args.checkpoint)
    return export_graph(
        model, random_images(size), args.out, args.backbone_only
    )


def main():
    """Export, and say how exact the graph is."""
    args = parse_args()
    from mmflora.checkpoint import trusted_checkpoints
    from mmflora.config.command_line import user_errors

    with user_errors(), trusted_checkpoints(args.trust_checkpoints):
        difference = export(args)
    print(difference)
    print(f'{args.out}  {os.path.getsize(args.out) / 1e6:,.1f} MB')


if __name__ == '__main__':
    main()
