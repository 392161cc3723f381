"""Measure loading and inference of a case's models, in turns.

    python benchmarks/waits/inference.py SCOPE IMAGE OUT NAME=CONFIG,WEIGHTS...

A helper of benchmarks/run.py.
"""

import json
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
os.environ.setdefault('OMP_NUM_THREADS', '1')

WARMUP, ROUNDS = 3, 20


def functions_of(scope):
    """Return a toolkit's functions that load a model and that apply it."""
    if scope == 'mmseg':
        from mmseg.apis import inference_model, init_model

        return init_model, inference_model
    from mmdet.apis import inference_detector, init_detector

    if scope == 'mmrotate':
        from mmrotate.utils import register_all_modules

        register_all_modules(init_default_scope=False)
    return init_detector, inference_detector


def main():
    """Measure, and write."""
    from benchmarks.waits.shares import repeat

    scope, image, out, *models = sys.argv[1:]
    load, apply = functions_of(scope)
    built, found = {}, {}
    for words in models:
        name, _, files = words.partition('=')
        config, weights = files.split(',')

        def start(name=name, config=config, weights=weights):
            built[name] = load(config, weights, device='cpu')

        seconds, cpu = repeat(start, 2)
        # The first loads modules, too.
        found[name] = dict(load=dict(seconds=seconds[1:], cpu=cpu[1:]))
        found[name]['apply'] = dict(seconds=[], cpu=[])
    names = list(built)
    for turn in range(-WARMUP, ROUNDS):
        shift = turn % len(names)
        for name in names[shift:] + names[:shift]:
            model = built[name]
            times = repeat(lambda model=model: apply(model, image), 1)
            if turn >= 0:
                for key, values in zip(('seconds', 'cpu'), times, strict=True):
                    found[name]['apply'][key] += values
    Path(out).write_text(json.dumps(found))


if __name__ == '__main__':
    main()
