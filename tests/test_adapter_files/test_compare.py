"""Two adapters are compared by their files."""

import pytest

from mmflora.adapter_files import read_adapter, write_adapter
from mmflora.adapter_files.compare import (
    compare_adapters,
    difference_table,
    draw_differences,
)
from mmflora.adapter_files.method_options import layer_options
from mmflora.adapter_files.stored_updates import stored_updates


def test_files_are_compared_layer_by_layer(adapter, tmp_path):
    first = read_adapter(write_adapter(adapter, tmp_path / 'first'))
    for key, value in adapter.tensors.items():
        if key.endswith('adapter.core'):
            adapter.tensors[key] = 2 * value
    second = read_adapter(write_adapter(adapter, tmp_path / 'second'))
    rows = compare_adapters(first, second)
    assert len(rows) == len(first.layers()) > 4
    for row in rows:
        assert row.norms[1] == pytest.approx(2 * row.norms[0])
        assert row.difference == pytest.approx(row.norms[0])
        assert row.cosine == pytest.approx(1)
        assert max(row.angles) < 1e-3
    assert len(difference_table(rows).splitlines()) == len(rows) + 1
    draw_differences(rows, ('first', 'second'), tmp_path / 'diff.png')
    assert (tmp_path / 'diff.png').stat().st_size > 5000


def test_options_of_targets_count(adapter):
    method = adapter.backbone()['method']
    method['targets'] = {r'stem\..*': dict(scale=2.0), '.*': {}}
    stem = layer_options(adapter, 'backbone.stem.0')
    assert stem == dict(type='FLoRA', rank=4, scale=2.0)
    assert 'scale' not in layer_options(adapter, 'backbone.stages.0.x')
    assert layer_options(adapter, 'neck.0') == {}


def test_others_are_not_compared(adapter, tmp_path):
    fewer = read_adapter(write_adapter(adapter, tmp_path / 'a'))
    for key in list(fewer.tensors):
        if 'stem' in key:
            del fewer.tensors[key]
    with pytest.raises(ValueError, match='adapt different layers'):
        compare_adapters(adapter, fewer)
    adapter.backbone()['method']['adapter']['type'] = 'DoRA'
    with pytest.raises(ValueError, match='not in the file alone.*--config'):
        stored_updates(adapter)
