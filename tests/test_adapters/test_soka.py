"""SoKA, from its equations."""

import pytest
import torch
from method_cases import adapt, randomise
from torch import nn

from mmflora.adapters import inject
from mmflora.adapters.kronecker import leading_count

EXACT = dict(rtol=1e-10, atol=1e-12)
LAYERS = {
    'linear': lambda: nn.Linear(6, 8),
    'conv': lambda: nn.Conv2d(8, 6, (3, 2), groups=2),
}


@pytest.fixture(params=LAYERS.values(), ids=LAYERS)
def layer(request):
    torch.manual_seed(0)
    return request.param().double().requires_grad_(False)


def terms(left, right):
    """Return Σ U ⊗ V by torch.kron, at each position of a kernel."""
    spots = right.reshape(*right.shape[:3], -1)
    whole = torch.stack(
        [
            sum(map(torch.kron, left, spots[..., i]))
            for i in range(spots.shape[-1])
        ],
        -1,
    )
    return whole.reshape(*whole.shape[:2], *right.shape[3:])


def test_the_adapted_weight_is_the_rest_and_trained_kronecker_products(layer):
    adapter = adapt(layer, dict(type='SoKA', rank=3, energy=1.0)).adapter
    start = terms(adapter.start_left, adapter.start_right)
    randomise(nn.ModuleDict(dict(layer=layer)))
    rest = layer.weight - start
    torch.testing.assert_close(
        adapter.adapted_weight(layer.weight),
        rest + terms(adapter.left, adapter.right),
        **EXACT,
    )


def test_the_start_is_the_leading_terms_of_the_weight(layer):
    settings = dict(type='SoKA', rank=99, energy=1.0)
    adapter = adapt(layer, settings).adapter
    u, s, vh = torch.linalg.svd(rearranged(layer.weight, adapter))
    products = [
        s[k]
        * terms(
            u[:, k].reshape(1, *adapter.left.shape[1:]),
            vh[k].reshape(1, *adapter.right.shape[1:]),
        )
        for k in range(len(s))
    ]
    torch.testing.assert_close(sum(products), layer.weight, **EXACT)
    used = adapter.kept
    assert 0 < used < len(s), 'down to the elbow'
    start = terms(adapter.start_left, adapter.start_right)
    torch.testing.assert_close(start, sum(products[:used]), **EXACT)


def rearranged(weight, adapter):
    """Return the matrix whose rows are the blocks of the weight."""
    m, n = adapter.left.shape[1:]
    rows = []
    for strip in weight.chunk(m, 0):
        rows += [block.flatten() for block in strip.chunk(n, 1)]
    return torch.stack(rows)


@pytest.mark.parametrize(
    ('values', 'energy', 'count'),
    [
        # Energies 0.64, 0.16, … of a whole of 1; the elbow is the second.
        ([0.8, 0.4, 0.3, 0.2], 0.6, 1),
        ([0.8, 0.4, 0.3, 0.2], 0.9, 2),
        # A line has no elbow.
        ([0.6, 0.4, 0.2], 0.5, 2),
        ([0.6, 0.4, 0.2], 0.99, 3),
        ([1.0, 1e-9], 1.0, 1),
    ],
)
def test_rank_by_energy_and_elbow(values, energy, count):
    found = torch.tensor(values, dtype=torch.float64)
    assert leading_count(found, 1.0, energy) == count


def test_terms_beyond_the_rank_found_never_move(layer):
    model = nn.Sequential(layer)
    report = inject(model, dict(type='SoKA', rank=4, energy=0.3))
    adapter = layer.adapter
    used = adapter.kept
    assert used < 4
    assert report.remarks == {'0': f'{used} of 4 terms are used'}
    assert adapter.left[:used].flatten(1).any(1).all()
    for factor in (adapter.left, adapter.right):
        assert not factor[used:].any()
    shape = (2, 6) if isinstance(layer, nn.Linear) else (2, 8, 5, 5)
    layer(torch.randn(shape, dtype=torch.float64)).sum().backward()
    for factor in (adapter.left, adapter.right):
        assert factor.grad[:used].any()
        assert not factor.grad[used:].any()


def test_factors_are_near_the_root_of_a_layer_of_a_vit():
    # 768 = 24 · 32 and 3072 = 48 · 64: by hand.
    with torch.device('meta'):
        layer = adapt(nn.Linear(768, 3072), dict(type='SoKA', rank=16))
    assert layer.adapter.left.shape == (16, 48, 24)
    assert layer.adapter.right.shape == (16, 64, 32)
