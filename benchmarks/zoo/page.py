"""The results of a sweep as a page and as JSON."""

import json
import textwrap
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from mmflora.files.atomic import write_text

from .configs import ZooConfig
from .results import read_results, versions
from .shrink import WHAT
from .sweep import BUILD_LIMITS, OURS, STEP_LIMITS

HEAD = """\
# The zoos of the toolkits

Written by

```bash
python tools/zoo_coverage.py --method {method}             # builds
python tools/zoo_coverage.py --method {method} --families  # steps
python tools/zoo_coverage.py --write
```

**{adapted} of the {stock} configs whose models build here also build with
`--peft {method}`** ({share}). **Of the {families} families with such configs,
{steps} take a training step; {alike} do not because their stock model takes
none here either; {ours} fail by mmflora; {open} were not run.**
[zoo.json](zoo.json) has a line for each of the {all} configs.

Versions: {versions}.

*Builds* are on the meta device, without weights or a network; a model may take
{build_seconds} s. Text encoders come from a small local folder, teachers have
no weights, batch norms over several GPUs are ordinary ones, and encoders do
without fairscale's activation checkpointing. *keys* says
whether the state dict without adapters and records has the keys and shapes of
the stock one. *layers* counts adapted layers of the backbone and those left
out, *trains* the parameters that train, each from the smallest to the largest
config of the family.

*step* trains one config of the family (the smallest whose stock model takes a
step) on a made batch of two images on the CPU. The base is a file with random
weights in the stock layout: of the backbone, or of the whole model where the
config starts from one or names no weights. The step passes if every loss is
finite, the base is bit for bit that of the file afterwards, every adapter has
a gradient other than zero (or its layer's own weight has none in the stock
model either), and a checkpoint of the adapters brings a fresh model to the
same bits. A step may take {step_seconds} s.

{what}
"""
COLUMNS = (
    'stock',
    'adapted',
    'keys',
    'model',
    'parameters',
    'trainable',
    'layers',
    'left_out',
)

STEP_COLUMNS = ('step', 'config', 'size', 'loss', 'adapters', 'unlearned')


def write_page(results: Path, folder: Path) -> None:
    """Write ``zoo.md`` and ``zoo.json`` from what is there.

    Args:
        results: The folder with the results of all parts.
        folder: Where to write.

    Raises:
        FileNotFoundError: If there are no builds.
        ValueError: If builds and steps are of different methods.
    """
    method, builds = read_results(results, 'builds')
    try:
        steps_method, steps = read_results(results, 'steps')
    except FileNotFoundError:
        steps_method, steps = method, {}
    if steps_method != method:
        raise ValueError(
            f"'{results}' holds builds with {method} and steps with "
            f'{steps_method}. Use a folder for each method.'
        )
    write_text(folder / 'zoo.json', _as_json(method, builds, steps))
    write_text(folder / 'zoo.md', page(method, builds, steps))


def page(
    method: str, builds: Mapping[str, Any], steps: Mapping[str, Any]
) -> str:
    """Return the page."""
    families = _families(builds)
    built = [each for each in builds.values() if each['stock'] is True]
    adapted = [each for each in built if each['adapted'] is True]
    buildable = [f for f, group in families.items() if _buildable(group)]
    run = [steps[family] for family in buildable if family in steps]
    stepped = [step for step in run if _stepped(step)]
    ours = [step for step in run if _fails_by_us(step)]
    head = HEAD.format(
        method=method,
        adapted=len(adapted),
        stock=len(built),
        share=f'{len(adapted) / max(len(built), 1):.1%}',
        steps=len(stepped),
        ours=len(ours),
        alike=len(run) - len(stepped) - len(ours),
        open=len(buildable) - len(run),
        families=len(buildable),
        all=len(builds),
        versions=',\n'.join(f'{k} {v}' for k, v in versions().items()),
        build_seconds=BUILD_LIMITS[0],
        step_seconds=STEP_LIMITS[0],
        what=textwrap.fill(WHAT, 79),
    )
    sections = [
        head,
        *_tables(families, steps),
        '## Steps that were not taken\n',
        *_grouped(_failed_steps(families, steps)),
        '\n## Adapters without a gradient\n',
        *_grouped(_unlearned(steps)),
        '\n## Not adapted\n',
        *_grouped((n, b['adapted']) for n, b in builds.items() if _lost(b)),
        '\n## Keys that differ\n',
        *_grouped(
            (name, build['keys'])
            for name, build in builds.items()
            if build.get('keys', True) is not True
        ),
        '\n## Layers left out\n',
        *_left_out(builds),
        '\n## Not built here as they are\n',
        'These do not count above.\n',
        *_grouped(
            (name, build['stock'])
            for name, build in builds.items()
            if build['stock'] is not True
        ),
    ]
    return '\n'.join(sections) + '\n'


def row(build: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the JSON says of a config."""
    return {column: build.get(column) for column in COLUMNS}


def _families(builds: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    families: dict[str, dict[str, Any]] = {}
    for name, build in builds.items():
        families.setdefault(ZooConfig.of(name).family, {})[name] = build
    return families


def _buildable(family: Mapping[str, Any]) -> list[Any]:
    return [b for b in family.values() if b['stock'] is True]


def _lost(build: Mapping[str, Any]) -> bool:
    return build['stock'] is True and build['adapted'] is not True


def _stepped(step: Mapping[str, Any]) -> bool:
    return step.get('step') is True and 'adapter alone' not in step.get(
        'unlearned', {}
    )


def _fails_by_us(step: Mapping[str, Any]) -> bool:
    if step['step'] is True:
        return not _stepped(step)
    return step['step'].startswith(OURS)


def _tables(
    families: Mapping[str, Mapping[str, Any]], steps: Mapping[str, Any]
) -> Iterable[str]:
    toolkit = ''
    for family, builds in families.items():
        own, _, folder = family.partition('::')
        if own != toolkit:
            toolkit = own
            yield f'\n## {toolkit}\n'
            yield (
                '| family | configs | stock | adapted | keys | layers | '
                'left out | trains | step |'
            )
            yield '|---|--:|--:|--:|:-:|--:|--:|--:|---|'
        yield f'| {folder} | {len(builds)} | {_row(builds, steps.get(family))}'


def _row(builds: Mapping[str, Any], step: Mapping[str, Any] | None) -> str:
    stock = _buildable(builds)
    adapted = [build for build in stock if build['adapted'] is True]
    cells = [str(len(stock)), str(len(adapted))]
    if adapted:
        same = all(build['keys'] is True for build in adapted)
        cells += [
            'same' if same else 'differ',
            _range([build['layers'] for build in adapted], str),
            _range([sum(b['left_out'].values()) for b in adapted], str),
            _range([build['trainable'] for build in adapted], _millions),
        ]
    else:
        cells += [''] * 4
    if step is None:
        cells.append('not run' if adapted else '')
    elif step.get('step') is True:
        passed = 'passes' if _stepped(step) else 'adapters without gradient'
        path = step['config'].partition('/')[2]
        cells.append(f'{passed}, loss {step["loss"]:.3g}, `{path}`')
    else:
        cells.append('see below' if stock else '')
    return ' | '.join(cells) + ' |'


def _range(values: list[int], text: Any) -> str:
    low, high = text(min(values)), text(max(values))
    return low if low == high else f'{low}–{high}'


def _millions(count: int) -> str:
    return f'{count / 1e6:.1f}M'


def _failed_steps(
    families: Mapping[str, Mapping[str, Any]], steps: Mapping[str, Any]
) -> Iterable[tuple[str, str]]:
    for family, step in steps.items():
        if step['step'] is not True and _buildable(families.get(family, {})):
            yield step.get('config', family), step['step']


def _unlearned(steps: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    for step in steps.values():
        for why, (count, first) in step.get('unlearned', {}).items():
            yield step['config'], f'{why}: {count} layers, from {first} on'


def _left_out(builds: Mapping[str, Any]) -> Iterable[str]:
    """Yield the reasons, with the numbers of layers and configs."""
    layers: Counter[str] = Counter()
    configs: Counter[str] = Counter()
    for build in builds.values():
        for reason, count in build.get('left_out', {}).items():
            layers[reason] += count
            configs[reason] += 1
    for reason, count in layers.most_common():
        yield f'- {count} layers in {configs[reason]} configs: {reason}'
    if not layers:
        yield 'None.'


def _grouped(reasons: Iterable[tuple[str, str]]) -> Iterable[str]:
    """Yield each reason once, with how many names it holds for, and some."""
    groups: dict[str, list[str]] = {}
    for name, reason in reasons:
        groups.setdefault(reason, []).append(name)
    for reason, names in sorted(groups.items(), key=lambda g: -len(g[1])):
        first = f'`{names[0]}`'
        which = f'{len(names)}, such as {first}' if len(names) > 1 else first
        yield f'- {which}: {reason}'
    if not groups:
        yield 'None.'


def _as_json(
    method: str, builds: Mapping[str, Any], steps: Mapping[str, Any]
) -> str:
    """Return all results, a line for each config and family."""
    head = dict(method=method, versions=versions(), columns=COLUMNS)
    parts = [json.dumps(head)[1:-1]]
    rows = {name: [*row(build).values()] for name, build in builds.items()}
    taken = {
        family: {key: step[key] for key in STEP_COLUMNS if key in step}
        for family, step in steps.items()
    }
    for title, items in (('configs', rows), ('families', taken)):
        lines = ',\n'.join(
            f'{json.dumps(name)}: {json.dumps(item)}'
            for name, item in items.items()
        )
        parts.append(f'"{title}": {{\n{lines}\n}}')
    return '{' + ',\n'.join(parts) + '}\n'
