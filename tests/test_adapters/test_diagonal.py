"""SVFit and LoLDU, from their equations."""

import pytest
import torch
from method_cases import adapt
from torch import nn

LAYERS = {
    'linear': lambda: nn.Linear(6, 8),
    'wide': lambda: nn.Linear(9, 4),
    'conv': lambda: nn.Conv2d(4, 6, 3, groups=2),
}


@pytest.fixture(params=LAYERS.values(), ids=LAYERS)
def layer(request):
    torch.manual_seed(0)
    return request.param().double().requires_grad_(False)


def test_svfit_trains_the_leading_singular_values(layer):
    u, s, vh = torch.linalg.svd(layer.weight.flatten(1), full_matrices=False)
    adapter = adapt(layer, dict(type='SVFit', rank=3)).adapter
    change = torch.randn(3, dtype=torch.float64)
    with torch.no_grad():
        adapter.diagonal.copy_(change)
    s[:3] += change
    expected = (u @ s.diag() @ vh).view(layer.weight.shape)
    torch.testing.assert_close(adapter.adapted_weight(layer.weight), expected)
    assert [name for name, _ in adapter.named_parameters()] == ['diagonal']


def test_loldu_trains_the_diagonal_and_its_scale(layer):
    weight = layer.weight.flatten(1)
    permutation, lower, upper = torch.linalg.lu(weight)
    d = upper.diagonal()
    settings = dict(type='LoLDU', rank=3, alpha=1.5)
    adapter = adapt(layer, settings).adapter
    assert not adapter.delta_weight().any()
    z, gamma = torch.randn(3, dtype=torch.float64), 0.7
    with torch.no_grad():
        adapter.diagonal.copy_(z - d[:3])
        adapter.factor.fill_(gamma)
    left = permutation @ lower[:, :3]
    right = upper[:3] / d[:3, None]
    residual = weight - 0.5 * left @ d[:3].diag() @ right
    expected = residual + gamma * left @ z.diag() @ right
    torch.testing.assert_close(
        adapter.adapted_weight(layer.weight).flatten(1), expected
    )
    whole = adapt(layer_like(layer), dict(type='LoLDU', rank=99)).adapter
    product = whole.left * whole.first @ whole.right.flatten(1)
    torch.testing.assert_close(product, weight)


def layer_like(layer):
    """Return a layer of the same weight, without an adapter."""
    plain = nn.Linear(1, 1)
    plain.weight = nn.Parameter(layer.weight.flatten(1), requires_grad=False)
    return plain


def test_a_singular_weight_has_finite_factors():
    layer = nn.Linear(5, 4).double()
    nn.init.zeros_(layer.weight)
    for kind in ('SVFit', 'LoLDU'):
        own = adapt(layer_like(layer), dict(type=kind, rank=3)).adapter
        assert all(t.isfinite().all() for t in own.state_dict().values())
        assert not own.delta_weight().any()
