"""Measure on a GPU what nothing else can, in the order of its worth.

    python benchmarks/gpu.py --minutes 30

Each row is a process of its own, which may fail alone.  Its result is a file
of JSON in --out; a row that is there is not measured again, so that another
call goes on.  The page docs/benchmarks/gpu.md is written from the files.  No
network and no data are needed.  To try it without a GPU: --device cpu --small.
"""

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
import time
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.gpu_rows import ROWS  # noqa: E402

PAGE = ROOT / 'docs/benchmarks/gpu.md'
RESULTS = ROOT / 'docs/benchmarks/gpu'


def parse_args(argv=None):
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__.strip().splitlines()[0]
    )
    add = parser.add_argument
    add('--minutes', type=float, default=60, help='time for all rows')
    add('--device', choices=['cuda', 'cpu'], default='cuda')
    add('--small', action='store_true', help='a rehearsal on tiny models')
    names = [row.name for row in ROWS]
    add('--only', nargs='+', choices=names, metavar='ROW', help='some rows')
    add('--retry', action='store_true', help='measure failed rows again')
    add('--out', type=Path, help=f'default: {RESULTS.relative_to(ROOT)}')
    add('--page', type=Path, help=f'default: {PAGE.relative_to(ROOT)}')
    args = parser.parse_args(argv)
    rehearsal = args.small or args.device == 'cpu'
    if rehearsal and not args.out:
        parser.error('a rehearsal is no result: name another folder by --out')
    if args.minutes <= 0:
        parser.error('--minutes: more than 0')
    args.out = args.out or RESULTS
    args.page = args.page or (args.out / 'gpu.md' if rehearsal else PAGE)
    return args


def machine(device):
    """Return what the results depend on, beside the rows."""
    import torch

    from mmflora.study.run_measures import processor_name

    packages = ('torch', 'timm', 'peft', 'onedl-mmcv', 'onedl-mmdetection')
    if device == 'cuda' and not torch.cuda.is_available():
        sys.exit(
            'error: PyTorch finds no GPU. For a rehearsal: --device cpu '
            '--small --out FOLDER.'
        )
    return dict(
        device=torch.cuda.get_device_name()
        if device == 'cuda'
        else processor_name(),
        versions={name: version(name) for name in packages}
        | {'torch': torch.__version__},
        python=platform.python_version(),
    )


def measure(row, args, about, seconds):
    """Run a row's command; return what its file is to hold."""
    found = args.out / f'{row.name}.part'
    words = [
        str(word).format(out=found)
        for word in row.words(args.device, args.small)
    ]
    command = [sys.executable, str(ROOT / words[0]), *words[1:]]
    started = time.perf_counter()
    limit = min(seconds, 60 * row.minutes)
    log = args.out / f'{row.name}.log'
    with log.open('w') as file:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            status = process.wait(limit)
        except subprocess.TimeoutExpired:
            status = f'stopped after {limit:.0f} s'
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    took = time.perf_counter() - started
    result = dict(
        row=row.name,
        command=' '.join(['python', *words]).replace(str(found), 'OUT'),
        took=round(took, 1),
        date=datetime.now(timezone.utc).isoformat(timespec='seconds'),
        rehearsal=args.small or args.device == 'cpu',
        **about,
    )
    if status == 0 and found.exists():
        result['found'] = json.loads(found.read_text())
        log.unlink()
    else:
        lines = log.read_text(errors='replace').strip().splitlines()
        result['failed'] = f'{status}: ' + (lines or ['no output'])[-1][:400]
    found.unlink(missing_ok=True)
    return result


def is_done(file, retry):
    """Return whether a row has its result."""
    if not file.exists():
        return False
    return not (retry and 'failed' in json.loads(file.read_text()))


def run(args):
    """Measure the rows that are missing, as many as fit in the time."""
    args.out.mkdir(parents=True, exist_ok=True)
    about = machine(args.device)
    end = time.monotonic() + 60 * args.minutes
    rows = [row for row in ROWS if not args.only or row.name in args.only]
    for number, row in enumerate(rows, start=1):
        place = f'{number}/{len(rows)} {row.name}'
        file = args.out / f'{row.name}.json'
        left = end - time.monotonic()
        if is_done(file, args.retry):
            print(f'{place}: there already', flush=True)
            continue
        if left < 30:
            print(f'{place}: no time left', flush=True)
            continue
        print(f'{place}: {row.title} ({left / 60:.1f} min left)', flush=True)
        result = measure(row, args, about, left)
        if 'failed' in result and left < 60 * row.minutes:
            # It was cut short by --minutes, and may fit the next time.
            print(f'{place}: {result["failed"]}', flush=True)
            continue
        part = file.with_suffix('.tmp')
        part.write_text(json.dumps(result, indent=1) + '\n')
        part.replace(file)
        said = result.get('failed') or f'done in {result["took"]:.0f} s'
        print(f'{place}: {said}', flush=True)


def main(argv=None):
    """Measure, and write the page."""
    from benchmarks.gpu_page import page

    args = parse_args(argv)
    run(args)
    args.page.write_text(page(args.out))
    print(args.page)


if __name__ == '__main__':
    main()
