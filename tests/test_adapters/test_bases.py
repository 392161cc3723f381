"""Updates in bases of their own, from the papers' equations."""

import math

import pytest
import scipy.fft
import torch
from method_cases import adapt, randomise
from torch import nn

from mmflora.adapters import inject
from mmflora.adapters.bases import cosine_rows, spread, surviving

EXACT = dict(rtol=1e-10, atol=1e-12)
LAYERS = {
    'linear': lambda: nn.Linear(6, 8),
    'conv': lambda: nn.Conv2d(8, 6, (3, 2), groups=2),
}


@pytest.fixture(params=LAYERS.values(), ids=LAYERS)
def layer(request):
    torch.manual_seed(0)
    return request.param().double().requires_grad_(False)


def spectrum_of(adapter):
    """Return the dense spectrum of LoCA's coefficients."""
    shape = adapter.weight_shape
    spectrum = torch.zeros(shape, dtype=torch.float64)
    for a, places in zip(
        adapter.coefficients.detach(), adapter.places.detach().T, strict=True
    ):
        spots = [
            round(min(max(float(place), 0.0), 0.999) * (size - 1))
            for place, size in zip(places, shape, strict=True)
        ]
        spectrum[tuple(spots)] += a.detach()
    return spectrum


def test_loca_is_the_inverse_cosine_transform_of_its_coefficients(layer):
    adapter = adapt(layer, dict(type='LoCA', frequencies=7, scale=0.5)).adapter
    assert not adapter.delta_weight().any()
    nn.init.normal_(adapter.coefficients)
    whole = scipy.fft.idctn(spectrum_of(adapter).numpy(), norm='ortho')
    torch.testing.assert_close(
        adapter.delta_weight().detach(), 0.5 * torch.tensor(whole), **EXACT
    )


def test_locas_places_have_the_gradient_of_the_central_difference(layer):
    adapter = adapt(layer, dict(type='LoCA', frequencies=4, scale=0.5)).adapter
    nn.init.normal_(adapter.coefficients)
    upstream = torch.randn(layer.weight.shape, dtype=torch.float64)
    (adapter.delta_weight() * upstream).sum().backward()
    shape = layer.weight.shape
    transformed = scipy.fft.dctn(upstream.numpy(), norm='ortho')
    for j, places in enumerate(adapter.places.detach().T):
        spots = [
            round(min(float(place), 0.999) * (size - 1))
            for place, size in zip(places, shape, strict=True)
        ]
        a = 0.5 * float(adapter.coefficients.detach()[j])
        for mode, size in enumerate(shape):
            ends = []
            for step in (1, -1):
                moved = list(spots)
                moved[mode] = min(max(spots[mode] + step, 0), size - 1)
                ends.append(transformed[tuple(moved)])
            expected = a * (ends[0] - ends[1]) / 2 * (size - 1)
            found = float(adapter.places.grad[mode, j])
            assert found == pytest.approx(expected, rel=1e-10, abs=1e-12)


def test_rows_of_long_transforms_are_exact_in_float32():
    places = torch.tensor([0.997, 0.5, 0.0])
    wide = cosine_rows(places.double(), 4096)
    assert (cosine_rows(places, 4096) - wide).abs().max() < 1e-6
    torch.testing.assert_close(
        wide @ wide.T, torch.eye(3, dtype=torch.float64), **EXACT
    )


def test_block_lora_is_a_sum_of_products_with_one_shared_block(layer):
    settings = dict(type='BlockLoRA', rank=6, blocks=3, alpha=3.0)
    adapter = randomise(
        nn.ModuleDict(dict(layer=adapt(layer, settings)))
    ).layer.adapter
    down = adapter.down.flatten(1)
    assert down.shape[0] == 2
    # Cut along the rank: B A = Σ B_i A_i, where each A_i is the shared one.
    up, whole = torch.cat([*adapter.up], 1), torch.cat([down] * 3)
    torch.testing.assert_close(
        adapter.delta_weight().flatten(1), 0.5 * up @ whole, **EXACT
    )
    out, columns = layer.weight.flatten(1).shape
    trained = sum(p.numel() for p in adapter.parameters())
    assert trained == 6 * out + 2 * columns


def kernel_of(adapter):
    """Return SNELL's matrix before the competition, entry by entry."""
    left, right = adapter.left, adapter.right.flatten(1, -2)
    return 0.1 * torch.stack(
        [
            torch.stack(
                [
                    (left[0, i] - right[0, j]).norm()
                    - (left[1, i] - right[1, j]).norm()
                    for j in range(right.shape[1])
                ]
            )
            for i in range(left.shape[1])
        ]
    )


def test_snell_keeps_the_largest_entries_of_its_kernel(layer):
    settings = dict(type='SNELL', rank=4, sparsity=0.75)
    adapter = adapt(layer, settings).adapter
    whole = kernel_of(adapter)
    kept = whole.numel() - int(0.75 * (whole.numel() - 1)) - 1
    largest = whole.detach().abs().flatten().topk(kept).indices
    mask = torch.zeros(whole.numel(), dtype=torch.float64)
    mask[largest] = 1
    expected = whole * whole.detach().abs() * mask.view(whole.shape)
    delta = adapter.delta_weight().flatten(1)
    torch.testing.assert_close(delta, expected, **EXACT)
    assert int(delta.count_nonzero()) == kept
    upstream = torch.randn_like(delta)
    ours = torch.autograd.grad(delta, adapter.left, upstream)[0]
    theirs = torch.autograd.grad(expected, adapter.left, upstream)[0]
    torch.testing.assert_close(ours, theirs, **EXACT)
    assert torch.linalg.matrix_rank(whole) > 4


@pytest.mark.parametrize(('sparsity', 'left'), [(0.0, 4), (0.5, 2), (1.0, 0)])
def test_how_many_survive(sparsity, left):
    matrix = torch.tensor([[0.5, -2.0], [3.0, -1.0]])
    found = surviving(matrix, sparsity)
    assert int(found.count_nonzero()) == left
    assert left < 2 or float(found[0, 1]) == -4.0


def test_superlora_folds_a_group_into_one_tensor():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 8), nn.Conv2d(4, 6, 3), nn.Linear(8, 5))
    settings = dict(type='SuperLoRA', rank=3, order=3, groups=2, scale=0.5)
    inject(net.double(), settings)
    randomise(net)
    shared = net[0].adapter.shared
    # 48, 216 and 40 weights: the middles lie at 24, 156 and 284 of 304.
    assert [one.adapter.group for one in net] == ['0', '1', '1']
    flat = []
    for tensor in shared.values():
        a, b, c = tensor.factors
        whole = torch.einsum('xyz,ix,jy,kz->ijk', tensor.core, a, b, c)
        flat.append(0.5 * whole.flatten())
    assert shared['1'].factors[1].shape == (7, 3)  # 7³ = 343 ≥ 256
    assert shared['1'].factors[0].shape == (6, 3)  # 6 · 49 = 294 ≥ 256
    parts = flat[0][:48], flat[1][:216], flat[1][216:256]
    for one, part in zip(net, parts, strict=True):
        torch.testing.assert_close(
            one.adapter.delta_weight(), part.view(one.weight.shape), **EXACT
        )


def test_superlora_projects_a_smaller_tensor():
    torch.manual_seed(0)
    layer = nn.Linear(30, 40).double()
    settings = dict(type='SuperLoRA', rank=3, order=2, projection=0.1)
    inject(nn.Sequential(layer), settings)
    randomise(nn.Sequential(layer))
    tensor = layer.adapter.shared['0']
    a, b = tensor.factors
    values = (a @ tensor.core @ b.T).detach().flatten()[:120]
    delta = layer.adapter.delta_weight().detach().flatten()
    golden = (math.sqrt(5) - 1) / 2
    for i, found in enumerate(delta, 1):
        place = int((golden * i) % 1 * 120)
        assert float(found.abs()) == pytest.approx(
            float(values[place].abs()), rel=1e-10
        )


def test_the_projection_is_fixed_and_nearly_even():
    signs = spread(torch.ones(7, dtype=torch.float64), 10_000)
    assert set(signs.tolist()) == {1.0, -1.0}
    assert abs(float(signs.mean())) < 0.03  # three deviations of coins
    uses = torch.stack([spread(row, 700) for row in torch.eye(7)]).abs().sum(1)
    assert uses.min() >= 98
    assert uses.max() <= 102
