"""Where each system of the literature is in mmflora, as a page.

    python tools/list_systems.py            # the page, printed
    python tools/list_systems.py --write    # write docs/systems.md again

A row names classes, methods of huggingface/peft, configs or hooks, or says why
the system is not here.  Papers and configs of a class are found.
"""

import argparse
import re
import sys
from pathlib import Path
from typing import Any

from mmengine.config import Config

ROOT = Path(__file__).resolve().parents[1]
# A clone works without being installed; what is installed comes first.
sys.path.append(str(ROOT))

from systems import SYSTEMS  # noqa: E402

from mmflora.registry import ADAPTERS  # noqa: E402

PAGE = ROOT / 'docs' / 'systems.md'
METHODS = ROOT / 'configs' / '_base_' / 'methods'
HEAD = """\
# Systems of the literature

Written by `python tools/list_systems.py --write` from `tools/systems.py`.
FLoRA's paper and the work around it name many systems of fine-tuning. This
page says for each where it is: a method of mmflora (`adapter=dict(type=…)`), a
method of huggingface/peft (`adapter=dict(type='HFPEFT', peft_type=…)`), a
config, a tool, or not here, and why. What a method computes, and what was
chosen where a paper leaves it open, stands in its class;
[methods.md](methods.md) says which layers it adapts.
"""


def configs_by_method() -> dict[str, list[str]]:
    """Return the names in ``configs/_base_/methods`` by their adapters."""
    found: dict[str, list[str]] = {}
    for folder in ('', '*/'):
        more: dict[str, list[str]] = {}
        for path in sorted(METHODS.glob(f'{folder}*.py')):
            name = path.relative_to(METHODS).with_suffix('').as_posix()
            peft: Any = Config.fromfile(str(path)).method.get('peft') or {}
            adapter = peft.get('adapter') or {}
            kind = adapter.get('peft_type') or adapter.get('type')
            more.setdefault(str(kind), []).append(name)
        # Those of one backbone, where there are no others.
        found = more | found
    return found


def page() -> str:
    """Return the page."""
    configs = configs_by_method()
    lines = [HEAD]
    for title, rows in SYSTEMS.items():
        lines += [f'## {title}', '']
        lines += ['| system | here | configs | remark |']
        lines += ['| --- | --- | --- | --- |']
        for name, places, remark in rows:
            cells = [name, _places(places), _configs(places, configs), remark]
            lines.append('| ' + ' | '.join(cells) + ' |')
        lines.append('')
    return '\n'.join(lines)


def _places(places: tuple[str, ...]) -> str:
    return ', '.join(map(_place, places)) or 'not here'


def _place(place: str) -> str:
    kind, _, name = place.rpartition(':')
    if kind == 'peft':
        return f'peft `{name}`'
    if kind == 'config':
        return f'config `{name}`'
    method = ADAPTERS.get(name) if not kind else None
    if method is None:
        return f'`{name}`'
    link = re.search(r'arXiv:(\d+\.\d+)', getattr(method, 'paper', ''))
    if not link:
        return f'`{name}`'
    number = link.group(1)
    return f'`{name}` ([{number}](https://arxiv.org/abs/{number}))'


def _configs(places: tuple[str, ...], configs: dict[str, list[str]]) -> str:
    names = [
        name
        for place in places
        for name in configs.get(place.rpartition(':')[2], ())
    ]
    return ', '.join(f'`{name}`' for name in dict.fromkeys(names))


def main() -> None:
    """Print or write the page."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--write', action='store_true', help=f'write {PAGE}')
    if parser.parse_args().write:
        PAGE.write_text(page(), encoding='utf-8')
    else:
        print(page())


if __name__ == '__main__':
    main()
