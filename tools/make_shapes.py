"""Write the generated shapes data and a contact sheet for each domain.

Example:
    python tools/make_shapes.py --out data/shapes
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))

from demo.shapes import (  # noqa: E402
    CLASSES,
    DOMAINS,
    FORMATS,
    draw_contact_sheet,
    read_counts,
    write_shapes,
)


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description='Write the generated shapes data in the formats of COCO, '
        'DOTA and ADE20K. Data that is there already is kept.',
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument(
        '--out', type=Path, default=Path('data/shapes'), help='data folder'
    )
    parser.add_argument(
        '--domains', nargs='+', choices=list(DOMAINS), default=list(DOMAINS)
    )
    parser.add_argument(
        '--num-train', type=int, default=320, help='pictures to train on'
    )
    parser.add_argument(
        '--num-val', type=int, default=80, help='pictures to validate on'
    )
    parser.add_argument(
        '--image-size', type=int, default=128, help='side in pixels'
    )
    parser.add_argument('--seed', type=int, default=0, help='random seed')
    parser.add_argument(
        '--formats', nargs='+', choices=list(FORMATS), default=list(FORMATS)
    )
    return parser.parse_args()


def show_progress(done: int, total: int) -> None:
    """Update a line on a terminal, or print every fourth part."""
    if sys.stdout.isatty():
        print(
            f'\r  scene {done} of {total}',
            end='\n' * (done == total),
            flush=True,
        )
    elif done * 4 // total != (done - 1) * 4 // total:
        print(f'  scene {done} of {total}', flush=True)


def print_counts(data_root: Path) -> None:
    """Print how often each class occurs in each split."""
    print(f'  {"objects":8}' + ''.join(f'{name:>10}' for name in CLASSES))
    for split, counts in read_counts(data_root).items():
        cells = ''.join(f'{counts[name]:>10}' for name in CLASSES)
        print(f'  {split:8}{cells}')


def main() -> None:
    """Write each domain and say what it holds."""
    args = parse_args()
    for domain in args.domains:
        start = time.perf_counter()
        print(f'{domain}:', flush=True)
        try:
            roots = write_shapes(
                args.out,
                domain,
                num_train=args.num_train,
                num_val=args.num_val,
                image_size=args.image_size,
                seed=args.seed,
                formats=args.formats,
                progress=show_progress,
            )
        except (ValueError, OSError) as error:
            sys.exit(f'Error: {error}')
        seconds = time.perf_counter() - start
        print_counts(next(iter(roots.values())))
        for name, data_root in roots.items():
            print(f'  {name:8}{data_root}')
        sheet = args.out / f'{domain}.png'
        draw_contact_sheet(args.out / domain, sheet)
        print(f'  {"sheet":8}{sheet}')
        print(f'  ready in {seconds:.1f} s')


if __name__ == '__main__':
    main()
