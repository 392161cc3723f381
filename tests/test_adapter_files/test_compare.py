"""Norms, angles and sums on factors equal those of dense updates."""

import math

import pytest
import torch

from mmflora.adapter_files import read_adapter, write_adapter
from mmflora.adapter_files.compare import (
    compare_adapters,
    difference_table,
    draw_differences,
)
from mmflora.adapter_files.method_options import layer_options
from mmflora.adapter_files.stored_updates import stored_updates
from mmflora.adapters import FLoRA
from mmflora.adapters.updates import principal_angles, weighted_sum

EXACT = dict(rtol=1e-10, atol=1e-12)
SHAPES = {
    'linear': (7, 5),
    'conv': (6, 4, 3, 3),
    'depthwise': (8, 1, 7, 7),
    'pointwise': (6, 5, 1, 1),
}


def random_update(shape, rank=2, seed=0):
    torch.manual_seed(seed)
    adapter = FLoRA(torch.empty(shape), rank=rank, scale=0.5).double()
    for parameter in adapter.parameters():
        torch.nn.init.normal_(parameter)
    with torch.no_grad():
        return adapter.update(), adapter.delta_weight()


@pytest.mark.parametrize('shape', SHAPES.values(), ids=SHAPES)
@torch.no_grad()
def test_updates_are_those_of_the_adapter(shape):
    (one, dense), (two, other) = (
        random_update(shape, seed=seed) for seed in (0, 1)
    )
    assert one.shape == shape
    torch.testing.assert_close(one.dense(), dense, **EXACT)
    assert one.norm() == pytest.approx(float(dense.norm()), rel=1e-10)
    inner = float((dense * other).sum())
    assert one.inner(two) == pytest.approx(inner, rel=1e-9)


@pytest.mark.parametrize('shape', SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize('ranks', [(2, 2), (2, 3), (4, 5), (1, 1, 2)])
@torch.no_grad()
def test_weighted_sum_is_the_sum_of_updates(shape, ranks):
    made = [random_update(shape, r, seed=i) for i, r in enumerate(ranks)]
    weights = [0.7, -1.3, 0.2][: len(ranks)]
    total = weighted_sum([update for update, _ in made], weights)
    expected = sum(
        weight * dense
        for weight, (_, dense) in zip(weights, made, strict=True)
    )
    torch.testing.assert_close(total.dense(), expected, **EXACT)
    wanted = [sum(ranks)] * 2 + [2 * len(ranks)] * (len(shape) - 2)
    assert list(total.core.shape) == [
        min(pair) for pair in zip(wanted, shape, strict=True)
    ]


def test_weights_of_other_shapes_have_no_sum():
    updates = [random_update(shape)[0] for shape in ((4, 4), (4, 5))]
    with pytest.raises(ValueError, match='have no sum'):
        weighted_sum(updates, [1, 1])


def test_principal_angles():
    plane = torch.eye(4)[:, :2]
    turned = plane @ torch.tensor([[0.6, -0.8], [0.8, 0.6]])
    assert principal_angles(plane, turned).max() < 1e-5
    assert principal_angles(plane, torch.eye(4)[:, 2:]).tolist() == [90, 90]
    angle = math.radians(30)
    line = torch.tensor([[math.cos(angle)], [0], [math.sin(angle)], [0]])
    assert float(principal_angles(plane, line)) == pytest.approx(30, rel=1e-6)
    dependent = torch.cat([line, line], 1)
    assert principal_angles(plane, dependent).shape == (1,)


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


def test_norms_are_those_of_the_model(adapter, build):
    from mmflora.adapter_files import apply_adapter
    from mmflora.adapters import adapted_layers

    model = apply_adapter(build(), adapter)
    updates = stored_updates(adapter)
    layers = adapted_layers(model)
    assert layers.keys() == updates.keys()
    with torch.no_grad():
        for name, layer in layers.items():
            norm = float(layer.delta_weight().norm())
            assert updates[name].norm() == pytest.approx(norm, rel=1e-5)


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
