"""The benchmarks of a quantized base, on small models."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from benchmarks import quantization  # noqa: E402


def test_table_orders_the_ways(capsys):
    sizes = dict(width=64, heads=2, blocks=2, size=56)
    quantization.main([f'--{name}={value}' for name, value in sizes.items()])
    text = capsys.readouterr().out
    rows = [
        [float(cell) for cell in line.split('|')[2:6]]
        for line in text.splitlines()
        if re.match(r'\| .* \| [\d.]+ \|', line)
    ]
    names = ['bfloat16', *quantization.WAYS]
    assert len(rows) == len(names)
    found = dict(zip(names, rows, strict=True))
    order = ['bfloat16', *(n for n in names if '64' in n)]
    for column in (1, 2, 3):
        errors = [found[name][column] for name in order]
        assert errors == sorted(errors)
        assert 0 < errors[0] < 0.01
    linear = 2 * 12 * 64**2
    assert found['bfloat16'][0] == pytest.approx(linear * 2e-6, abs=0.01)
    nf4 = linear * (0.5 + 2 / 64) / 1e6
    assert found['nf4, blocks of 64'][0] == pytest.approx(nf4, abs=0.01)


@pytest.mark.slow
@pytest.mark.parametrize('bits', [8, 4])
def test_loading_needs_little_beside_the_bits(bits):
    """The bound is 0.6 of the dense weights; rounding needs some buffers."""
    done = subprocess.run(
        [sys.executable, str(ROOT / 'benchmarks/load_memory.py'), '--json']
        + f'--blocks 20 --width 512 --heads 8 --bits {bits}'.split(),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    figures = json.loads(done.stdout.splitlines()[-1])
    assert figures['weights'] < figures['dense'] * (bits + 0.6) / 16
    assert figures['peak'] < figures['dense'] * 0.8
