"""Runs the walk-through of docs/adapters-as-files.md, word for word.

    python tests/walk_through.py FOLDER [mmseg] [mmdet] [mmrotate]

Commands and programs are read from the page: fenced blocks whose info string
holds `walk`, then the toolkits that they need.  Blocks with `stock` run in a
process of their own that cannot import mmflora, all others one after another
in one process, as to start a tool takes 10 seconds.  What programs predict
under a toolkit's own name (`land`, `things`, `turned`) must be the same with
stock OpenMMLab as with the adapters.
"""

import json
import os
import re
import runpy
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / 'docs/adapters-as-files.md'
NAMES = {'mmseg': 'land', 'mmdet': 'things', 'mmrotate': 'turned'}


class Block(NamedTuple):
    """A piece of the page: its language, its marks and its text."""

    language: str
    marks: tuple[str, ...]
    text: str

    @property
    def toolkits(self):
        return set(self.marks) & NAMES.keys()

    @property
    def stock(self):
        return 'stock' in self.marks


def read_page(path=PAGE):
    """Return the blocks of the page's walk-through, in order."""
    text = path.read_text(encoding='utf-8')
    return [
        Block(language, tuple(marks.split()), body)
        for language, marks, body in re.findall(
            r'^```(bash|python) walk\b(.*)\n((?:.*\n)*?)```$', text, re.M
        )
    ]


def command_lines(text):
    """Return the commands of a block; a backslash joins lines."""
    joined = re.sub(r'\\\n\s*', ' ', text)
    return [line for line in joined.splitlines() if line.strip()]


def prepare(folder):
    """Make a folder look like the project, so that nothing is written there.

    Commands name tools and configs by their places in the project.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name in ('tools', 'configs'):
        if not (folder / name).exists():
            (folder / name).symlink_to(ROOT / name)


def run_with_mmflora(blocks):
    """Run blocks one after another in this process and working directory."""
    for block in blocks:
        if block.language == 'python':
            run_program(block)
            continue
        for line in command_lines(block.text):
            print(f'$ {line}', flush=True)
            started = time.perf_counter()
            run_command(line)
            print(f'  {time.perf_counter() - started:.1f} s', flush=True)


def run_command(line):
    """Run `python tools/X.py …` in this process, all else by a shell."""
    words = shlex.split(line)
    if words[0] != 'python':
        subprocess.run(line, shell=True, check=True)
        return
    sys.argv = words[1:]
    try:
        runpy.run_path(words[1], run_name='__main__')
    except SystemExit as error:
        if error.code:
            raise


def run_program(block):
    """Run a Python block; keep what it predicts under known names."""
    import torch

    names: dict = {}
    exec(compile(block.text, str(PAGE), 'exec'), names)
    for name in set(NAMES.values()) & names.keys():
        suffix = 'stock' if block.stock else 'adapted'
        torch.save(tensors(names[name]), f'{name}.{suffix}.pt')


def tensors(sample):
    """Return the tensors of a prediction by name."""
    if 'seg_logits' in sample:
        return {'logits': sample.seg_logits.data}
    return {
        name: getattr(value, 'tensor', value)
        for name, value in sample.pred_instances.items()
    }


class NoMmflora:
    """Makes every import of mmflora fail."""

    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] == 'mmflora':
            raise ImportError('mmflora is not installed here')


def start(step, blocks, folder, environment):
    """Run blocks in a new process; return what it printed."""
    words = [sys.executable, str(Path(__file__).resolve()), f'--{step}']
    done = subprocess.run(
        [*words, json.dumps(blocks)],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if done.returncode:
        raise RuntimeError(f'{step} failed:\n{done.stdout[-6000:]}')
    return done.stdout


def walk(folder, toolkits):
    """Walk through the page for some toolkits.

    Returns:
        What the commands printed, and by toolkit the largest difference
        between predictions with adapters and with stock OpenMMLab.
    """
    folder = Path(folder).resolve()
    prepare(folder)
    chosen = [
        block for block in read_page() if block.toolkits <= set(toolkits)
    ]
    bin_dir = Path(sys.executable).parent
    environment = {**os.environ, 'PATH': f'{bin_dir}:{os.environ["PATH"]}'}
    ours = [block for block in chosen if not block.stock]
    printed = start('mmflora', ours, folder, environment)
    without = {
        key: value for key, value in environment.items() if key != 'PYTHONPATH'
    }
    for block in chosen:
        if block.stock:
            printed += start('stock', [block], folder, without)
    return printed, {name: compare(folder, NAMES[name]) for name in toolkits}


def compare(folder, name):
    """Return how far stock predictions are from those with adapters.

    Returns:
        The largest difference, relative to the largest value.
    """
    import torch

    adapted, stock = (
        torch.load(folder / f'{name}.{kind}.pt', weights_only=True)
        for kind in ('adapted', 'stock')
    )
    assert adapted.keys() == stock.keys()
    worst = 0.0
    for key, wanted in adapted.items():
        found = stock[key]
        assert found.shape == wanted.shape, key
        assert wanted.numel() > 0, key
        off = (found.double() - wanted.double()).abs()
        if wanted.dtype == torch.bool:
            # Where a mask's score is 0.5, rounding decides.
            worst = max(worst, float(off.mean()))
            continue
        largest = float(wanted.double().abs().max())
        worst = max(worst, float(off.max()) / (largest or 1.0))
    return worst


def leave_configs_unformatted():
    """Let MMEngine write configs as they are: formatting takes longer."""
    from yapf.yapflib import yapf_api

    yapf_api.FormatCode = lambda text, **_: (text, False)


def main():
    step, *rest = sys.argv[1:]
    if step == '--mmflora':
        leave_configs_unformatted()
        run_with_mmflora([Block(*item) for item in json.loads(rest[0])])
    elif step == '--stock':
        sys.meta_path.insert(0, NoMmflora())
        run_program(*(Block(*item) for item in json.loads(rest[0])))
        assert not any(name.startswith('mmflora') for name in sys.modules)
    else:
        printed, differences = walk(step, rest or list(NAMES))
        print(printed)
        for toolkit, off in differences.items():
            print(f'{toolkit}: stock and adapted differ by {off:.1e}')


if __name__ == '__main__':
    main()
