import pytest
import torch
from layer_cases import CASES
from method_cases import WEIGHT_METHODS, adapt, left_out, randomise
from torch import nn

from mmflora.adapters.update_statistics import (
    intruder_dimensions,
    update_statistics,
)

LAYERS = ('linear', 'conv', 'depthwise')


def cases():
    names = [name for name in CASES if any(word in name for word in LAYERS)]
    return [
        pytest.param(method, case, id=f'{method}-{case}')
        for method in WEIGHT_METHODS
        for case in names[:6]
        if not left_out(method, case)
    ]


@pytest.mark.parametrize(('method', 'case'), cases())
def test_statistics_are_those_of_dense_algebra(method, case):
    torch.manual_seed(0)
    layer = CASES[case].build().double()
    layer = randomise(adapt(layer, WEIGHT_METHODS[method]))
    rank = 3
    found = update_statistics(layer, rank)
    with torch.no_grad():
        weight = layer.base_weight().flatten(1)
        delta = layer.delta_weight().flatten(1)
        factors = layer.adapter.low_rank()
    if factors is not None:
        rank = factors.left.shape[1]
    u, values, vh = torch.linalg.svd(delta, full_matrices=False)
    # Rounding of 2^-52 times the sizes of the matrices, with room.
    rank = min(rank, int((values > values[0] * 1e-12).sum()))
    within = (u[:, :rank].T @ weight @ vh[:rank].T).norm()
    assert found.rank == rank
    assert found.norm == pytest.approx(float(delta.norm()), rel=1e-9)
    assert found.relative == pytest.approx(
        float(delta.norm() / weight.norm()), rel=1e-9
    )
    # Gram matrices square the condition: half of the digits.
    assert found.amplification == pytest.approx(
        float(delta.norm() / within), rel=1e-6
    )
    assert found.intruders is None


def test_an_update_of_zero_amplifies_nothing():
    layer = adapt(nn.Linear(6, 5), dict(type='FLoRA', rank=2))
    found = update_statistics(layer)
    assert (found.norm, found.relative, found.amplification) == (0, 0, 0)
    assert found.rank == 0


def test_intruders_are_new_leading_directions():
    torch.manual_seed(0)
    left, _ = torch.linalg.qr(torch.randn(12, 12, dtype=torch.float64))
    right, _ = torch.linalg.qr(torch.randn(8, 8, dtype=torch.float64))
    values = torch.arange(8.0, 0, -1, dtype=torch.float64)
    frozen = left[:, :8] @ torch.diag(values) @ right.T
    # Two directions that W does not reach, larger than all that it has.
    news = left[:, 8:10] @ (20 * right[:, :2]).T
    assert intruder_dimensions(frozen, frozen) == 0
    assert intruder_dimensions(frozen, 3 * frozen) == 0
    assert intruder_dimensions(frozen, frozen + news) == 2
    assert intruder_dimensions(frozen, frozen + news, leading=1) == 1


def test_intruders_of_a_layer_are_counted_if_asked_for():
    torch.manual_seed(0)
    layer = randomise(adapt(nn.Linear(9, 7), dict(type='LoRA', rank=1)), 40)
    with torch.no_grad():
        weight, delta = layer.base_weight(), layer.delta_weight()
    found = update_statistics(layer, intruders=3)
    assert found.intruders == intruder_dimensions(weight, weight + delta, 3)
