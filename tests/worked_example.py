"""The worked example of docs/add_a_method.md, as files."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def write_example(folder: Path) -> str:
    """Write the method and its config into a folder; return the check."""
    text = (ROOT / 'docs' / 'add_a_method.md').read_text(encoding='utf-8')
    method, config, check = re.findall(r'```python\n(.*?)```', text, re.S)
    (folder / 'outer_product.py').write_text(method, encoding='utf-8')
    # From the working tree, whether or not mmflora is installed.
    (name,) = re.findall(r"'mmflora::(.*?)'", config)
    path = repr(str(ROOT / 'configs' / name))
    config = config.replace(f"'mmflora::{name}'", path)
    (folder / 'config.py').write_text(config, encoding='utf-8')
    return check
