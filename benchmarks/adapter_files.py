"""Sizes, times and memory of adapters as files, for a full-size model.

    python benchmarks/adapter_files.py FOLDER [CONFIG]

The weights are random, which changes none of it.  Each tool runs as a user
runs it, in a process of its own, imports included; its peak memory is the
largest resident set that the system saw.  `of files` is the part of it that
maps files, which the system takes back when memory is short.
"""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CONFIG = ROOT / 'configs/flora/mask-rcnn_convnextv2-l_flora-r16_coco.py'


def prepare(folder, config):
    """Write a base, two trained checkpoints over it and a full one."""
    import torch
    from mmengine.config import Config

    from mmflora.adapters import adapted_layers
    from mmflora.checkpoint import adapter_state_dict
    from mmflora.export import build_model, merged_state

    folder.mkdir(parents=True, exist_ok=True)
    base = folder / 'base.pth'
    cfg = Config.fromfile(config)
    backbone = cfg.model.backbone
    backbone.init_cfg, backbone.allow_random_base = None, True
    torch.manual_seed(0)
    state = build_model(cfg).backbone.state_dict()
    own = ('adapter', 'base_record')
    state = {k: v for k, v in state.items() if not set(k.split('.')) & {*own}}
    torch.save(state, base)
    del state
    cfg = Config.fromfile(config)
    cfg.model.backbone.init_cfg = dict(type='Pretrained', checkpoint=str(base))
    cfg.dump(folder / 'config.py')
    meta = dict(cfg=cfg.pretty_text, dataset_meta=dict(classes=('a', 'b')))
    for name in ('first', 'second'):
        model = build_model(cfg)
        with torch.no_grad():
            for layer in adapted_layers(model).values():
                layer.adapter.core.normal_(std=1e-2)
        with adapter_state_dict():
            adapters = model.state_dict()
        torch.save(
            dict(meta=meta, state_dict=adapters), folder / f'{name}.pth'
        )
    torch.save(dict(state_dict=merged_state(model)), folder / 'full.pth')


def measure(words, folder):
    """Run a command; return seconds, peak bytes, and those of files."""
    started = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, *map(str, words)],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    watch = Watch(process.pid)
    text = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    watch.stop()
    if process.returncode:
        sys.exit(text)
    seconds = time.perf_counter() - started
    return text, seconds, usage.ru_maxrss * 1024, watch.anonymous


class Watch(threading.Thread):
    """Looks at a process's own memory every 20 ms."""

    def __init__(self, pid):
        super().__init__(daemon=True)
        self.path = Path(f'/proc/{pid}/status')
        self.anonymous = 0
        self.going = True
        self.start()

    def run(self):
        while self.going:
            try:
                text = self.path.read_text()
            except OSError:
                return
            for line in text.splitlines():
                if line.startswith('RssAnon:'):
                    own = int(line.split()[1]) * 1024
                    self.anonymous = max(self.anonymous, own)
            time.sleep(0.02)

    def stop(self):
        self.going = False
        self.join()


def swap(folder):
    """Load both tasks, and time switches between them; in this process."""
    import torch

    from mmflora.tasks import TaskSet

    tasks = TaskSet()
    for name in ('first', 'second'):
        started = time.perf_counter()
        tasks.load(name, str(folder / 'config.py'), folder / name)
        print(f'load {name}: {time.perf_counter() - started:.1f} s')
    images = torch.zeros(1, 3, 64, 64)
    times = []
    with torch.no_grad():
        for name in ('first', 'second') * 10:
            started = time.perf_counter()
            model = tasks.activate(name)
            times.append(time.perf_counter() - started)
            model.backbone(images)
    times.sort()
    print(
        f'switch: median {1e3 * times[len(times) // 2]:.2f} ms, '
        f'longest {1e3 * times[-1]:.2f} ms of {len(times)}'
    )
    print(f'base {tasks.base.bytes() / 1e6:.1f} MB')
    print(f'a task more {tasks.own_bytes("second") / 1e6:.1f} MB')


def commands(folder):
    """Return the tools' command lines by what they do."""
    adapters, merge = ROOT / 'tools/adapters.py', ROOT / 'tools/merge.py'
    config = folder / 'config.py'
    full = folder / 'full.pth'
    return {
        'export': (adapters, 'export', 'first.pth', 'first'),
        'export the second': (adapters, 'export', 'second.pth', 'second'),
        'import --config': (adapters, 'import', 'first', 'back.pth')
        + ('--config', config),
        'merge': (merge, config, 'first', '--out', 'merged.pth')
        + ('--out-config', 'plain.py', '--size', '256', '256'),
        'merge --dtype float16': (merge, config, 'first')
        + ('--out', 'half.pth', '--dtype', 'float16')
        + ('--size', '256', '256'),
        'diff': (adapters, 'diff', 'first', 'second'),
        'combine': (adapters, 'combine', 'sum', 'first', 'second')
        + ('--weights', '0.5', '0.5'),
        'extract --rank 16': (adapters, 'extract', 'base.pth', full)
        + ('extracted', '--config', config, '--rank', '16'),
        'two tasks': (Path(__file__).resolve(), '--swap', folder),
    }


def main():
    """Measure all of it, or do one of the steps in a process of its own."""
    if sys.argv[1] == '--swap':
        swap(Path(sys.argv[2]))
        return
    if sys.argv[1] == '--prepare':
        prepare(Path(sys.argv[2]), sys.argv[3])
        return
    folder = Path(sys.argv[1]).resolve()
    config = sys.argv[2] if len(sys.argv) > 2 else CONFIG
    if not (folder / 'full.pth').exists():
        folder.mkdir(parents=True, exist_ok=True)
        measure(
            (Path(__file__).resolve(), '--prepare', folder, config), folder
        )
    print('| what | seconds | peak memory, MB | without mapped files, MB |')
    print('|---|---|---|---|')
    told = ''
    for name, words in commands(folder).items():
        text, seconds, peak, own = measure(words, folder)
        told = text if name == 'two tasks' else told
        print(
            f'| {name} | {seconds:.1f} | {peak / 1e6:,.0f} | {own / 1e6:,.0f} '
            '|',
            flush=True,
        )
    print('\n| file | MB |\n|---|---|')
    for name in (
        'full.pth',
        'base.pth',
        'first.pth',
        'merged.pth',
        'half.pth',
    ):
        print(f'| {name} | {(folder / name).stat().st_size / 1e6:,.1f} |')
    size = sum(file.stat().st_size for file in (folder / 'first').iterdir())
    print(f'| adapter folder, heads included | {size / 1e6:,.1f} |')
    print(f'| adapters alone | {adapters_alone(folder) / 1e6:,.1f} |')
    print(f'\n{told}')


def adapters_alone(folder):
    """Return the bytes of the adapters in the first file."""
    from mmflora.adapter_files import read_adapter

    adapter = read_adapter(folder / 'first')
    return sum(
        adapter.tensors[key].numel() * adapter.tensors[key].element_size()
        for key in adapter.groups()['adapters']
    )


if __name__ == '__main__':
    main()
