"""Norms, angles, sums and truncation equal those of dense updates."""

import math

import pytest
import torch

from mmflora.adapters import FLoRA
from mmflora.adapters.updates import Update, principal_angles, weighted_sum

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


@pytest.mark.parametrize('shape', SHAPES.values(), ids=SHAPES)
@torch.no_grad()
def test_with_and_without_factors_it_is_the_same(shape):
    """An update without factors is its own core, in every operation."""
    (one, dense), (two, _) = (random_update(shape, seed=s) for s in (0, 1))
    bare = Update(dense)
    assert bare.shape == shape
    assert bare.norm() == pytest.approx(one.norm(), rel=1e-10)
    for pair in ((bare, two), (two, bare), (bare, Update(two.dense()))):
        assert pair[0].inner(pair[1]) == pytest.approx(one.inner(two))
        assert pair[0].angles(pair[1]) == ()
    expected = weighted_sum([one, two], [1, -1]).dense()
    mixed = weighted_sum([bare, two], [1, -1])
    torch.testing.assert_close(mixed.dense(), expected, **EXACT)
    matrices = [u.as_matrix().dense() for u in (one, bare)]
    torch.testing.assert_close(*matrices, **EXACT)


@pytest.mark.parametrize('shape', SHAPES.values(), ids=SHAPES)
@torch.no_grad()
def test_truncation_on_factors_is_that_of_the_dense_update(shape):
    update, dense = random_update(shape, rank=4)
    ranks = [min(2, r) for r in update.core.shape]
    found = [u.truncated(ranks) for u in (update, Update(dense))]
    torch.testing.assert_close(found[0].dense(), found[1].dense(), **EXACT)
    assert [list(u.core.shape) for u in found] == [ranks, ranks]
    assert found[0].norm() == pytest.approx(float(found[0].core.norm()))
    whole = update.truncated(update.core.shape)
    torch.testing.assert_close(whole.dense(), dense, **EXACT)
    if len(shape) == 2:
        values = torch.linalg.svdvals(dense)
        error = float((found[0].dense() - dense).norm())
        assert error == pytest.approx(float(values[2:].norm()))
