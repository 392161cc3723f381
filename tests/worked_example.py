"""The worked examples of docs/add_a_method.md."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def _page() -> str:
    return (ROOT / 'docs' / 'add_a_method.md').read_text(encoding='utf-8')


def _blocks(text: str) -> list[str]:
    return re.findall(r'```python\n(.*?)```', text, re.S)


def examples_of_mechanisms() -> dict[str, str]:
    """Return the examples that stand by themselves, by their headings."""
    sections = re.split(r'^## ', _page(), flags=re.M)[1:]
    found = {part.split('\n')[0]: _blocks(part) for part in sections}
    return {
        heading: blocks[0]
        for heading, blocks in found.items()
        if blocks and heading not in ('The file', 'The config', 'The check')
    }


def write_example(folder: Path) -> str:
    """Write the method and its config into a folder; return the check."""
    method, config, check, *_ = _blocks(_page())
    (folder / 'outer_product.py').write_text(method, encoding='utf-8')
    # From the working tree, whether or not mmflora is installed.
    (name,) = re.findall(r"'mmflora::(.*?)'", config)
    path = repr(str(ROOT / 'configs' / name))
    config = config.replace(f"'mmflora::{name}'", path)
    (folder / 'config.py').write_text(config, encoding='utf-8')
    return check
