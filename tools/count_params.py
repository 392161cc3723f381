"""Count what configs train, by component, without weights or memory.

Models are built on PyTorch's meta device, so the largest takes a second.
"""

import argparse
import glob
import os
import re
import shlex
import sys
from collections import Counter
from pathlib import Path

# A clone works without being installed; what is installed comes first.
sys.path.append(str(Path(__file__).resolve().parents[1]))


def parse_args(argv=None):
    """Read the command line."""
    from mmflora.config.command_line import ConfigOptions, add_trust_option
    from mmflora.config.peft.arguments import add_peft_arguments

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        'configs',
        nargs='+',
        metavar='CONFIG',
        help="paths of config files, or quoted patterns: 'configs/lora/*.py'",
    )
    parser.add_argument(
        '--budget',
        metavar='COUNT',
        help='also search, for each config, the rank whose parameters in the '
        'backbone come nearest to this count, such as 12.94M',
    )
    parser.add_argument(
        '--beside',
        metavar='CSV',
        help='published counts to set beside ours: the columns config (a '
        'name or pattern) and trained (such as 12.94M)',
    )
    parser.add_argument('--out', metavar='FILE.md', help='also write it here')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=ConfigOptions,
        metavar='KEY=VALUE',
        help='change settings of every config, as tools/train.py does: '
        'model.backbone.peft.adapter.rank=24',
    )
    add_peft_arguments(parser)
    add_trust_option(parser)
    return parser.parse_args(argv)


def find_configs(patterns):
    """Return the paths that paths and patterns name, r8 before r16."""
    from mmflora.config.build import resolve_config

    paths = []
    for pattern in patterns:
        if not glob.has_magic(pattern):
            paths.append(resolve_config(pattern))
            continue
        found = glob.glob(pattern, recursive=True)
        found = [path for path in found if path.endswith('.py')]
        if not found:
            raise FileNotFoundError(f"No config matches '{pattern}'.")
        paths += sorted(found, key=_natural)
    return list({os.path.abspath(path): path for path in paths}.values())


def short_names(paths):
    """Return a name for each path: its stem, with folders where two agree."""
    depths = dict.fromkeys(paths, 1)
    while True:
        names = {
            path: '/'.join(
                Path(os.path.abspath(path)).with_suffix('').parts[-depth:]
            )
            for path, depth in depths.items()
        }
        uses = Counter(names.values())
        same = [path for path, name in names.items() if uses[name] > 1]
        if not same:
            return names
        for path in same:
            depths[path] += 1


def _natural(path):
    return [
        int(part) if part.isdigit() else part
        for part in re.split(r'(\d+)', path)
    ]


def report(args):
    """Return the text that the command line asks for."""
    from mmflora.config.command_line import parse_count
    from mmflora.config.peft.arguments import read_adapted
    from mmflora.config.printed_report import check_folder
    from mmflora.count.budget import rank_for_budget
    from mmflora.count.parameters import (
        build_on_meta,
        count_model,
    )
    from mmflora.count.table import count_table, read_beside

    budget = args.budget and parse_count(args.budget, '--budget')
    beside = args.beside and read_beside(args.beside)
    check_folder('--out', args.out)
    paths = find_configs(args.configs)
    options = args.cfg_options
    configs = {p: read_adapted(p, args, options, False) for p in paths}
    names = short_names(paths)
    counts = {
        names[path]: count_model(build_on_meta(cfg))
        for path, cfg in configs.items()
    }
    parts = [count_table(counts, beside or None)]
    if budget:
        for path, cfg in configs.items():
            choice = rank_for_budget(cfg, budget)
            parts.append(f'{names[path]}\n{choice}')
    if args.out:
        Path(args.out).write_text(document(parts, sys.argv[1:]))
    return '\n\n'.join(parts)


def document(parts, argv):
    """Return the report as a page that says how it was made."""
    from mmflora.count.table import LEGEND

    command = shlex.join(['python', 'tools/count_params.py', *argv])
    table, *choices = parts
    blocks = [f'```\n{choice}\n```' for choice in choices]
    return (
        '\n\n'.join(
            [
                '# Parameter counts',
                f'Written by\n\n```bash\n{command}\n```',
                LEGEND.strip(),
                table,
                *blocks,
            ]
        )
        + '\n'
    )


def main():
    """Count as the command line says."""
    from mmflora.checkpoint import trusted_checkpoints
    from mmflora.config.printed_report import print_report

    args = parse_args()
    with trusted_checkpoints(args.trust_checkpoints):
        print_report(lambda: report(args))


if __name__ == '__main__':
    main()
