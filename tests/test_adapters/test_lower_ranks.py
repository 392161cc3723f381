"""Lower ranks of one layer's adapter, against dense algebra in float64."""

import math

import pytest
import torch
from method_cases import WEIGHT_METHODS, adapt, randomise
from torch import nn

from mmflora.adapters import FLoRA, LoRA, merge
from mmflora.adapters.lower_ranks import LowerRanks
from mmflora.adapters.ranked import Prefixes

RTOL = dict(rtol=1e-10, atol=1e-12)
LAYERS = {
    'linear': lambda: nn.Linear(7, 9),
    '3x3': lambda: nn.Conv2d(6, 8, 3),
    'depthwise': lambda: nn.Conv2d(6, 6, 3, groups=6),
    'grouped': lambda: nn.Conv2d(8, 6, 3, groups=2),
}
PRODUCTS = {
    name: {**WEIGHT_METHODS[name], 'rank': 5}
    for name in (
        *('LoRA', 'LoRA, loralib', 'LoRA, rs', 'PiSSA', 'OLoRA', 'LoRA-XS'),
        *('SVFit', 'LoLDU', 'LoRA-SB', 'EVA', 'LoRA-GA'),
    )
}
TUCKERS = {
    name: {**WEIGHT_METHODS[name], 'rank': 5}
    for name in ('FLoRA', 'FLoRA, weight', 'FLoRA, gradient')
}


def stored(layer, settings, seed=0):
    """Return an adapter's class, tensors, settings and update."""
    torch.manual_seed(seed)
    adapter = randomise(adapt(layer().double(), settings)).adapter
    tensors = {k: v.clone() for k, v in adapter.state_dict().items()}
    own = {key: value for key, value in settings.items() if key != 'type'}
    return type(adapter), tensors, own, adapter.delta_weight().detach()


def dense_of(method, tensors, settings):
    return method.stored_update(tensors, settings).dense()


@pytest.mark.parametrize('layer', LAYERS.values(), ids=LAYERS)
@pytest.mark.parametrize('settings', PRODUCTS.values(), ids=PRODUCTS)
def test_nearest_product_is_the_truncated_svd(layer, settings):
    method, tensors, own, delta = stored(layer, settings)
    loralib = settings.get('form') == 'loralib'
    near = method.nearest(tensors, own)
    matrix = method.whole_update(tensors, own).dense()
    if loralib and delta.dim() > 2:  # the matrix that its factors make
        torch.testing.assert_close(matrix.view(delta.shape), delta, **RTOL)
    else:
        torch.testing.assert_close(matrix, delta.flatten(1), **RTOL)
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    total = values.square().sum()
    step = 3 if loralib and delta.dim() > 2 else 1
    for rank in range(1, near.largest + 1):
        lower = near.settings(rank)
        assert lower['rank'] == rank
        found = dense_of(near.method, near.tensors(rank), lower)
        keep = slice(rank * step)
        best = left[:, keep] * values[keep] @ right[keep]
        torch.testing.assert_close(found, best, rtol=1e-9, atol=1e-11)
        dropped = values[rank * step :].square().sum()
        error = (matrix - found).square().sum()
        torch.testing.assert_close(error, dropped, rtol=1e-8, atol=1e-12)
        assert near.kept(rank) == pytest.approx(float(total - dropped))
        scale = near.method.blank((9, 9), lower).scale
        given = method.blank((9, 9), own)
        assert scale == pytest.approx(getattr(given, 'scale', 1.0))
    torch.testing.assert_close(found, matrix, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize('layer', LAYERS.values(), ids=LAYERS)
@pytest.mark.parametrize('settings', TUCKERS.values(), ids=TUCKERS)
def test_nearest_tucker_is_the_truncated_hosvd(layer, settings):
    method, tensors, own, delta = stored(layer, settings)
    near = method.nearest(tensors, own)
    for rank in range(1, near.largest + 1):
        lower = near.settings(rank)
        found = dense_of(near.method, near.tensors(rank), lower)
        ranks = [min(rank, n) for n in delta.shape[:2]]
        doubled = 1 + (settings.get('start') == 'weight')
        ranks += [min(2 * doubled, n) for n in delta.shape[2:]]
        expected = delta
        for mode, own_rank in enumerate(ranks):
            unfolded = delta.movedim(mode, 0).flatten(1)
            basis = torch.linalg.svd(unfolded).U[:, :own_rank]
            moved = expected.movedim(mode, 0)
            moved = torch.tensordot(basis @ basis.T, moved, 1)
            expected = moved.movedim(0, mode)
        torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-10)
        error = float((delta - found).square().sum())
        assert near.total - near.kept(rank) == pytest.approx(error, abs=1e-9)
        if delta.dim() == 2:
            values = torch.linalg.svdvals(delta)[rank:]
            dropped = float(values.square().sum())
            assert error == pytest.approx(dropped, abs=1e-12)
    torch.testing.assert_close(found, delta, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize('layer', LAYERS.values(), ids=LAYERS)
@pytest.mark.parametrize(
    'settings',
    [*PRODUCTS.values(), *TUCKERS.values()],
    ids=lambda s: s['type'],
)
def test_prefixes_keep_the_first_components(layer, settings):
    method, tensors, own, delta = stored(layer, settings)
    prefixes = Prefixes(method, tensors, own)
    assert prefixes.largest == 5
    for rank in range(1, 6):
        lower, part = prefixes.settings(rank), prefixes.tensors(rank)
        found = dense_of(method, part, lower)
        expected = zero_beyond(method, tensors, own, rank)
        torch.testing.assert_close(found, expected, **RTOL)
        error = (expected - dense_of(method, tensors, own)).square().sum()
        kept = prefixes.total - float(error)
        assert prefixes.kept(rank) == pytest.approx(kept, abs=1e-9)
        assert prefixes.parameters(rank) == sum(
            part[name].numel()
            for name, _ in method.restored(part, lower).named_parameters()
        )


def zero_beyond(method, tensors, settings, rank):
    """Return the update whose later components are set to zero."""
    kernel = settings.get('form') == 'loralib' and tensors['up'].shape[1] > 5
    keep = rank * (3 if kernel else 1)
    left = {name: value.clone() for name, value in tensors.items()}
    for name, value in left.items():
        part = name.removeprefix('start_')
        if part == 'core':  # a Tucker core, or LoRA-XS's
            value[rank:], value[:, rank:] = 0, 0
        elif part in ('up', 'left') or part[:9] in ('factors.0', 'factors.1'):
            value[:, keep:] = 0
        elif part in ('down', 'right', 'diagonal', 'first'):
            value[keep:] = 0
    return dense_of(method, left, settings)


def test_kernel_ranks_and_lists_of_ranks():
    conv, linear = LAYERS['3x3'], LAYERS['linear']
    method, tensors, own, delta = stored(conv, dict(type='FLoRA', rank=4))
    part = Prefixes(method, tensors, own, kernel_rank=1)
    assert part.settings(3) == dict(rank=3, kernel_rank=1)
    assert part.tensors(3)['core'].shape == (3, 3, 1, 1)
    near = method.nearest(tensors, own, kernel_rank=1)
    assert near.tensors(2)['core'].shape == (2, 2, 1, 1)
    for make in (method.nearest, lambda *a: Prefixes(method, *a)):
        with pytest.raises(ValueError, match='a number from 1 to 2'):
            make(tensors, own, 3)
    listed = dict(type='FLoRA', rank=[4, 3, 2, 3], scale=2.0)
    method, tensors, own, delta = stored(conv, listed)
    near = method.nearest(tensors, own)
    assert near.settings(2) == dict(rank=[2, 2, 2, 3], scale=2.0)
    found = dense_of(FLoRA, near.tensors(4), near.settings(4))
    torch.testing.assert_close(found, delta, rtol=1e-8, atol=1e-10)
    method, tensors, own, _ = stored(linear, dict(type='LoRA', rank=4))
    for make in (method.nearest, lambda *a: Prefixes(method, *a)):
        with pytest.raises(ValueError, match='no modes of a kernel'):
            make(tensors, own, 1)


def test_dora_has_prefixes_and_no_nearest():
    settings = dict(type='DoRA', rank=4, alpha=3.0)
    for layer in (
        LAYERS['linear'],
        lambda: nn.ConvTranspose2d(6, 8, 3, groups=2),
    ):
        method, tensors, own, _ = stored(layer, settings)
        part = Prefixes(method, tensors, own)
        found = part.tensors(2)
        assert part.total is None
        assert torch.equal(found['up'], tensors['up'][:, :2])
        assert torch.equal(found['magnitude'], tensors['magnitude'])
        assert part.settings(2) == dict(rank=2, alpha=1.5)
        with pytest.raises(ValueError, match='depends on the frozen weight'):
            method.nearest(tensors, own)


@pytest.mark.parametrize('layer', LAYERS.values(), ids=LAYERS)
@pytest.mark.parametrize('kind', ['LoRA', 'FLoRA'])
def test_merged_nearest_is_the_dense_one(layer, kind):
    method, tensors, own, delta = stored(layer, dict(type=kind, rank=4))
    near, rank = method.nearest(tensors, own), 2
    model = nn.Sequential(layer().double())
    weight = model[0].weight.detach().clone()
    lower = adapt_like(model, dict(type=kind, **near.settings(rank)))
    lower.load_state_dict(near.tensors(rank))
    merge(model)
    found = model[0].weight - weight
    error = (found - delta).square().sum()
    assert float(error) == pytest.approx(near.total - near.kept(rank))
    if kind == 'LoRA' or delta.dim() == 2:
        values = torch.linalg.svdvals(delta.flatten(1))[rank:]
        assert float(error) == pytest.approx(float(values.square().sum()))


def adapt_like(model, settings):
    from mmflora.adapters import inject

    inject(model, settings)
    return model[0].adapter


def test_an_untrained_update_has_lower_ranks():
    adapter = adapt(nn.Linear(7, 9), dict(type='LoRA', rank=4)).adapter
    near = LoRA.nearest(dict(adapter.state_dict()), dict(rank=4))
    assert near.total == 0
    assert not any(v.any() for v in near.tensors(2).values())
    assert all(math.isfinite(v.sum()) for v in near.tensors(2).values())


def test_every_product_of_factors_is_covered():
    from mmflora.registry import ADAPTERS

    known = {
        name
        for name, kind in ADAPTERS.module_dict.items()
        if issubclass(kind, LowerRanks)
        and kind.__module__.startswith('mmflora.')
    }
    tested = {s['type'] for s in (*PRODUCTS.values(), *TUCKERS.values())}
    nested = {'MatryoshkaLoRA', 'DyLoRA', 'MatryoshkaFLoRA'}
    blocks = {'Pfeiffer', 'Houlsby', 'AdaptFormer', 'VPT'}
    assert known == tested | nested | blocks | {'DoRA', 'CorDA'}


@pytest.mark.parametrize('layer', LAYERS.values(), ids=LAYERS)
@pytest.mark.parametrize('name', ['LoRA', 'LoRA, loralib', 'DoRA', 'FLoRA'])
def test_squeezed_components_are_gone_for_good(layer, name):
    settings = {**WEIGHT_METHODS[name], 'rank': 4}
    adapter = randomise(adapt(layer().double(), settings)).adapter
    assert adapter.squeezes()
    own = {key: value for key, value in settings.items() if key != 'type'}
    if name == 'DoRA':  # whose magnitude stays
        method, before = LoRA, adapter.magnitude.clone()
    else:
        method = type(adapter)
    tensors = {
        key: value.clone()
        for key, value in adapter.state_dict().items()
        if key != 'magnitude'
    }
    shapes = {key: value.shape for key, value in tensors.items()}
    near = method.nearest(tensors, own)
    adapter.squeeze(2)
    found = method.stored_update(
        {k: v for k, v in adapter.state_dict().items() if k in tensors}, own
    )
    best = dense_of(near.method, near.tensors(2), near.settings(2))
    torch.testing.assert_close(found.dense(), best, rtol=1e-8, atol=1e-10)
    if name == 'DoRA':
        assert torch.equal(adapter.magnitude, before)
    # They get no gradient, and so stay zero.
    optimizer = torch.optim.AdamW(adapter.parameters(), weight_decay=0.1)
    zeros = {k: adapter.get_parameter(k) == 0 for k in tensors}
    assert any(zero.any() for zero in zeros.values())
    for _ in range(2):
        optimizer.zero_grad()
        (
            adapter.delta_weight() * torch.randn(delta_shape(adapter))
        ).sum().backward()
        optimizer.step()
    for key, zero in zeros.items():
        parameter = adapter.get_parameter(key)
        assert parameter.shape == shapes[key]
        assert not parameter[zero].any()
        assert parameter.any()


def delta_shape(adapter):
    return tuple(adapter.weight_shape)


def test_what_does_not_squeeze():
    for settings in (
        dict(type='PiSSA', rank=2),
        dict(type='LoRAXS', rank=2),
        dict(type='FLoRA', rank=2, start='weight'),
        dict(type='MatryoshkaLoRA', rank=2),
        dict(type='DyLoRA', rank=2),
        dict(type='MatryoshkaFLoRA', rank=2),
    ):
        assert not adapt(nn.Linear(4, 4), settings).adapter.squeezes()
