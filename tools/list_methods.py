"""Which method adapts which layer, found by trying each, as a page.

    python tools/list_methods.py            # the page, printed
    python tools/list_methods.py --write    # write docs/methods.md again
    python tools/list_methods.py --check    # whether docs/methods.md is so

Every registered method and every method of huggingface/peft is injected into
a layer of each kind, its parameters are randomized, the layer is run, merged
and run again.
"""

import argparse
import inspect
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

# A clone works without being installed; what is installed comes first.
sys.path.append(str(Path(__file__).resolve().parents[1]))

from method_trials import (  # noqa: E402
    ADAPTS,
    LAYERS,
    MERGES,
    NEITHER,
    Outcome,
    try_method,
)
from peft_descriptions import (  # noqa: E402
    DESCRIPTIONS,
    OPTIONS,
    VARIANTS,
)

from mmflora.adapters.hf_peft import (  # noqa: E402
    load_peft,
    refused_types,
    supported_types,
)
from mmflora.registry import ADAPTERS  # noqa: E402

PAGE = Path(__file__).resolve().parents[1] / 'docs' / 'methods.md'
HEAD = """\
# Methods

This page is written by `python tools/list_methods.py --write`, which injects
every method into a layer of each kind, randomizes what trains, runs the
layer, merges it and runs it again.

- {merges}: adapts the layer, and merges into a plain one of equal outputs;
- {adapts}: adapts the layer, cannot be merged;
- {neither}: leaves the layer out, and the report of the injection says why.

Layers are of 64 channels; linear is 64 → 128, dilated is a 3×3 convolution of
dilation 2, grouped one of 2 groups, depthwise a 7×7 one, transposed 2×2 with
stride 2, norm a LayerNorm. Block adapters are tried on a small ConvNeXt; those
with no place in it, on a small vision transformer.
"""


def own_methods() -> dict[str, type]:
    """Return the registered methods of mmflora, peft's bridge left out."""
    return {
        name: method
        for name, method in sorted(ADAPTERS.module_dict.items())
        if name != 'HFPEFT' and method.__module__.startswith('mmflora.')
    }


def own_rows() -> list[list[str]]:
    """Try mmflora's own methods; return a row of the table for each."""
    rows = []
    for name, method in own_methods().items():
        outcomes = try_method(dict(type=name))
        first = (inspect.getdoc(method) or '').split('\n\n')[0]
        rows.append(
            [
                f'`{name}`',
                *(outcome.mark for outcome in outcomes.values()),
                first.replace('\n', ' ').rstrip('.'),
                _link(getattr(method, 'paper', '')),
            ]
        )
    return rows


def peft_rows(notes: list[str]) -> list[list[str]]:
    """Try peft's methods; return a row of the table for each.

    Args:
        notes: Gets a line for each reason that is peculiar to a layer.
    """
    rows = []
    for name in supported_types():
        kinds: list[Any] = [({}, *DESCRIPTIONS.get(name, ('', '')))]
        kinds += [VARIANTS[name]] if name in VARIANTS else []
        for settings, line, paper in kinds:
            options = OPTIONS.get(name, {}) | settings
            outcomes = try_method(
                dict(type='HFPEFT', peft_type=name, **options)
            )
            title = ', '.join(f'`{word}`' for word in (name, *settings))
            marks = [outcome.mark for outcome in outcomes.values()]
            rows.append([title, *marks, line, _link(paper)])
            notes.extend(_notes(title, outcomes))
    return rows


def page() -> str:
    """Try everything; return the page."""
    notes: list[str] = []
    head = HEAD.format(merges=MERGES, adapts=ADAPTS, neither=NEITHER)
    peft = load_peft()
    own, bridged = own_rows(), peft_rows(notes)
    refused: dict[str, list[str]] = {}
    for name, reason in sorted(refused_types().items()):
        refused.setdefault(reason, []).append(f'`{name}`')
    return '\n'.join(
        [
            head,
            "## mmflora's own",
            '',
            "`adapter=dict(type='FLoRA', ...)`; options stand in the class.",
            '',
            *_table(own),
            '',
            f'## From huggingface/peft {peft.__version__}',
            '',
            "`adapter=dict(type='HFPEFT', peft_type='LORA', r=8)`; the options"
            " are those of\npeft's configuration class. With peft's defaults"
            f', but for {_options()}.',
            '',
            *_table(bridged),
            '',
            '### What the marks above do not say',
            '',
            *notes,
            '',
            '### Methods of peft that adapt no layer',
            '',
            *(f'- {", ".join(who)}: {why}.' for why, who in refused.items()),
            '',
        ]
    )


def _options() -> str:
    texts = (
        f'{name} ('
        + ', '.join(f'`{key}={value}`' for key, value in options.items())
        + ')'
        for name, options in OPTIONS.items()
    )
    return ' and '.join(texts)


def _notes(title: str, outcomes: Mapping[str, Outcome]) -> Iterable[str]:
    """Yield a line for each reason that is not just another layer type."""
    reasons: dict[str, list[str]] = {}
    for kind, outcome in outcomes.items():
        usual = ('not supported', 'not support', 'passes over', 'No layer')
        if outcome.reason and not any(
            text in outcome.reason and outcome.mark == NEITHER
            for text in (*usual, 'norm layers alone', 'matches none')
        ):
            reasons.setdefault(outcome.reason, []).append(kind)
    for reason, kinds in reasons.items():
        yield f'- {title}, {", ".join(kinds)}: {reason}.'


def _link(paper: str) -> str:
    """Return a reference with its address behind it."""
    if paper.startswith('http'):
        name = paper.rstrip('/').rsplit('/', 1)[-1].rsplit('=', 1)[-1]
        return f'[{name}]({paper})'
    return re.sub(
        r'arXiv:(\d+\.\d+)', r'[\1](https://arxiv.org/abs/\1)', paper
    )


def _table(rows: list[list[str]]) -> list[str]:
    head = ['method', *LAYERS, 'block', 'what it is', 'paper']
    ruler = ['---', *[':-:'] * (len(LAYERS) + 1), '---', '---']
    return ['| ' + ' | '.join(row) + ' |' for row in (head, ruler, *rows)]


def main() -> int:
    """Print, write or check the page."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--write', action='store_true', help=f'write {PAGE}')
    parser.add_argument('--check', action='store_true', help='compare with it')
    arguments = parser.parse_args()
    text = page()
    if arguments.write:
        PAGE.write_text(text, encoding='utf-8')
    elif arguments.check:
        if PAGE.read_text(encoding='utf-8') != text:
            print(f'{PAGE} is out of date: run {__file__} --write.')
            return 1
    else:
        print(text)
    return 0


if __name__ == '__main__':
    sys.exit(main())
