"""Merge adapters into a plain checkpoint that stock OpenMMLab loads."""

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

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='path of the config of the training')
    parser.add_argument('checkpoint', help='its adapter checkpoint')
    parser.add_argument(
        '--out', required=True, help='the plain checkpoint to write (.pth)'
    )
    parser.add_argument('--out-config', help='the plain config to write (.py)')
    parser.add_argument(
        '--backbone-only',
        action='store_true',
        help='write the weights of the backbone alone, without prefix',
    )
    parser.add_argument(
        '--layout',
        choices=['stock', 'timm'],
        default='stock',
        help='with --backbone-only: keys of the plain backbone (default), or '
        'of timm.create_model(..., num_classes=0)',
    )
    parser.add_argument(
        '--dtype',
        choices=['float32', 'float16', 'bfloat16'],
        help="type of the file's parameters (default: the model's)",
    )
    parser.add_argument(
        '--size',
        nargs=2,
        type=int,
        metavar=('HEIGHT', 'WIDTH'),
        help='size of the random images on which both models are compared '
        "(default: the config's crop, else 256 256)",
    )
    parser.add_argument(
        '--bound',
        type=float,
        help='keep the file only if no output differs by more than this part '
        'of its largest value (default: 1e-4; with --dtype float16 1e-2, '
        'bfloat16 1e-1)',
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


def merge(args):
    """Merge as the command line says."""
    from mmflora.config.build import read_config
    from mmflora.export import MergeOptions, merge_checkpoint

    options = MergeOptions(
        dtype=args.dtype,
        backbone_only=args.backbone_only,
        layout=args.layout,
        size=tuple(args.size) if args.size else None,
        bound=args.bound,
    )
    for name, suffix in (('out', '.pth'), ('out_config', '.py')):
        path = getattr(args, name)
        if path is not None and not path.endswith(suffix):
            option = '--' + name.replace('_', '-')
            raise ValueError(f"{option} is '{path}': give a {suffix} file.")
    cfg = read_config(args.config, args.cfg_options)
    return merge_checkpoint(
        cfg, args.checkpoint, args.out, args.out_config, options
    )


def main():
    """Merge, and say what was written."""
    args = parse_args()
    from mmflora.checkpoint import trusted_checkpoints
    from mmflora.config.command_line import user_errors

    with user_errors(), trusted_checkpoints(args.trust_checkpoints):
        report = merge(args)
    for remark in report.remarks:
        print(f'note: {remark}')
    for path in report.files:
        print(f'{path}  {path.stat().st_size / 1e6:,.1f} MB')


if __name__ == '__main__':
    main()
