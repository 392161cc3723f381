"""The folder in which benchmarks/run.py works: data, bases, small configs."""

import os
import subprocess
import sys
from pathlib import Path

import torch
from mmengine.config import Config

from .clock import OUT

ROOT = Path(__file__).resolve().parents[2]
METHOD = 'flora-r16'
CLOCKED = """_base_ = './{config}'
custom_imports = dict(imports={imports!r}, allow_failed_imports=False)
custom_hooks = [dict(type='StartClock')]
"""


class Workspace:
    """A folder, what is written there, and commands that run there.

    Args:
        folder: The folder; it is made.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        self.folder.mkdir(parents=True, exist_ok=True)

    @property
    def environment(self) -> dict[str, str]:
        """The environment of every command: one thread, which sleeps idle."""
        return {
            **os.environ,
            'OMP_NUM_THREADS': '1',
            'MKL_NUM_THREADS': '1',
            'OMP_WAIT_POLICY': 'PASSIVE',
            'GOMP_SPINCOUNT': '0',
            'MPLBACKEND': 'Agg',
            'PYTHONPATH': str(ROOT),
            OUT: str(self.folder / 'clock.json'),
        }

    def run(self, *words: str | Path) -> str:
        """Run a Python file in the folder; return what it printed.

        Raises:
            RuntimeError: If it fails; has the end of what it printed.
        """
        done = subprocess.run(
            [sys.executable, *map(str, words)],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        if done.returncode:
            raise RuntimeError(
                f'{" ".join(map(str, words))}: exit status '
                f'{done.returncode}\n{done.stdout[-2000:]}'
            )
        return done.stdout

    def write_data(self) -> None:
        """Write the generated data, and the base of the small configs."""
        from demo.shapes import write_shapes
        from mmflora.models import ConvNeXt

        write_shapes(
            self.folder / 'data/shapes', 'target', num_train=160, num_val=8
        )
        torch.manual_seed(0)
        state = ConvNeXt('convnextv2_atto').state_dict()
        path = self.folder / 'work_dirs/shapes_base/base.pth'
        path.parent.mkdir(parents=True, exist_ok=True)
        state = {f'backbone.{key}': state[key] for key in state}
        torch.save(dict(state_dict=state), path)

    def write_case(self, name: str) -> None:
        """Write a stock config and an adapted one, and both with a clock."""
        from .stock_configs import write_case

        stock = write_case(name, self.folder)
        cfg = Config.fromfile(stock)
        if name == 'mmrotate':
            # The toolkit's own, also where the shapes have a faster one.
            metric = dict(type='DOTAMetric', metric='mAP')
            cfg.val_evaluator = cfg.test_evaluator = metric
        cfg.dump(stock)
        adapted = self.config(name, 'adapted')
        self.run(
            *(ROOT / 'tools/train.py', stock.name, '--peft', METHOD),
            *('--dump', adapted),
        )
        for side, imports in (('stock', []), ('adapted', ['mmflora'])):
            config = self.config(name, side)
            clocked = self.config(name, side, clocked=True)
            imports = [*imports, 'benchmarks.waits.clock']
            (self.folder / clocked).write_text(
                CLOCKED.format(config=config, imports=imports)
            )

    def config(self, name: str, side: str, *, clocked: bool = False) -> str:
        """Return the name of a case's config."""
        own = '' if side == 'stock' else f'_{side}'
        return f'{name}_r18{own}{"_clock" * clocked}.py'


def stock_tool(scope: str, tool: str) -> Path:
    """Return a toolkit's own ``train.py`` or ``test.py``."""
    from importlib.util import find_spec

    spec = find_spec(scope)
    if spec is None or not spec.submodule_search_locations:
        raise ValueError(f'{scope} is not installed.')
    return Path(spec.submodule_search_locations[0], '.mim/tools', tool)


def small_configs(model: str) -> list[Path]:
    """Return the small configs of a model, one for each method."""
    found = (ROOT / 'configs').glob(f'*/{model}_*_shapes*.py')
    return sorted(path for path in found if not path.stem.endswith('source'))


def write_stock_runtime(model: str, folder: Path) -> Path:
    """Write a small config without the hooks and the constructor of mmflora.

    Args:
        model: Whose fully trained config it is.
        folder: Where to write.
    """
    (full,) = (
        path
        for path in small_configs(model)
        if path.stem.startswith(f'{model}_full_')
    )
    cfg = Config.fromfile(full)
    hooks = {
        name: hook
        for name, hook in cfg.default_hooks.items()
        if not hook['type'].startswith('mmflora.')
    }
    checkpoint = dict(type='CheckpointHook', interval=1)
    cfg.default_hooks = dict(hooks, checkpoint=checkpoint)
    for key in ('constructor', 'paramwise_cfg'):
        cfg.optim_wrapper.pop(key, None)
    path = folder / f'{full.stem}_stock-runtime.py'
    cfg.dump(path)
    return path
