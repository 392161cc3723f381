"""benchmarks/methods.py: a step by any method, measured."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks.measure import Setting  # noqa: E402
from benchmarks.methods import (  # noqa: E402
    FLOOR,
    main,
    measure,
    parse_args,
    table,
)

SMALL = Setting('vit_tiny_patch16_224', 32, 1, 'float32', 'cpu', 0)
VPT = "dict(type='VPT', tokens=3)"


def test_rows_are_of_the_methods_and_the_floor():
    lines = []
    rows = measure([VPT, VPT], SMALL, 1, 0, lines.append)
    assert list(rows) == [FLOOR, VPT]
    assert rows[FLOOR]['trainable'] == 0
    assert rows[VPT]['trainable'] == 12 * 3 * 192
    # More tokens in each block, whose keys and values are kept.
    assert rows[VPT]['bytes_held'] > rows[FLOOR]['bytes_held']
    assert len(lines) == 1
    *_, last = table(rows).splitlines()
    assert last.startswith(f'| `{VPT}` | 6,912 | ')


def test_what_is_no_method_is_said():
    with pytest.raises(ValueError, match="Unknown adapter type 'VTP'"):
        main(["dict(type='VTP')", '--size', '32', '--repeats', '1'])
    with pytest.raises(SystemExit):
        parse_args(['--repeats', '0'])
