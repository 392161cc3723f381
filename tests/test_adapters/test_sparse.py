"""Sparse updates: their formulas, their gradients, and what is chosen."""

import copy
import math

import pytest
import torch
from method_cases import adapt
from mmengine.runner.checkpoint import load_state_dict
from torch import nn

from mmflora.adapters import SparseAdapter, calibrate, inject, merge
from mmflora.adapters.decompositions import polar_factor
from mmflora.adapters.operators import Geometry, LinearMap
from mmflora.registry import ADAPTERS

LAYERS = {
    'linear': (lambda: nn.Linear(6, 8), (3, 5, 6)),
    'conv': (lambda: nn.Conv2d(4, 6, 3, padding=1, dilation=2), (2, 4, 7, 8)),
    'grouped': (lambda: nn.Conv2d(4, 6, 3, groups=2), (2, 4, 7, 8)),
    'depthwise': (lambda: nn.Conv2d(6, 6, 5, groups=6), (2, 6, 7, 8)),
    'transposed': (
        lambda: nn.ConvTranspose2d(4, 6, 3, groups=2),
        (2, 4, 5, 4),
    ),
}


@pytest.fixture(params=LAYERS.values(), ids=LAYERS)
def layer(request):
    build, _ = request.param
    return build().double().requires_grad_(False)


def flat_set(adapter):
    return set(adapter.places.tolist())


def test_sara_trains_the_smallest_entries(layer):
    sizes = layer.weight.abs().flatten()
    adapter = adapt(layer, dict(type='SaRA', density=0.25)).adapter
    count = int(0.25 * sizes.numel())
    assert adapter.values.shape == (count,)
    assert flat_set(adapter) == set(sizes.argsort()[:count].tolist())
    assert adapter.places.tolist() == sorted(adapter.places.tolist())
    assert adapter.places.dtype == torch.int32


def test_lift_trains_the_largest_entries_of_the_low_rank_part(layer):
    u, s, vh = torch.linalg.svd(layer.weight.flatten(1), full_matrices=False)
    reduced = sum(s[i] * torch.outer(u[:, i], vh[i]) for i in range(2))
    order = reduced.abs().flatten().argsort(descending=True)
    settings = dict(type='LIFT', rank=2, budget=7)
    adapter = adapt(layer, settings).adapter
    assert flat_set(adapter) == set(order[:7].tolist())


def test_lift_of_a_full_rank_is_plain_magnitude_and_is_remarked():
    layer = nn.Linear(5, 9)
    order = layer.weight.abs().flatten().argsort(descending=True)
    model = nn.Sequential(layer)
    report = inject(model, dict(type='LIFT', rank=8, budget=4))
    assert report.remarks == {'0': 'rank clipped to 5'}
    assert flat_set(layer.adapter) == set(order[:4].tolist())


def test_update_is_the_values_at_their_places(layer):
    adapter = adapt(layer, dict(type='SaRA', density=0.25)).adapter
    nn.init.normal_(adapter.values)
    expected = [0.0] * layer.weight.numel()
    for place, value in zip(
        adapter.places.tolist(), adapter.values.tolist(), strict=True
    ):
        expected[place] = value
    expected = torch.tensor(expected, dtype=torch.float64)
    delta = adapter.delta_weight()
    torch.testing.assert_close(delta.flatten(), expected, rtol=0, atol=0)


def test_merging_leaves_all_other_bits(layer):
    with torch.no_grad():
        layer.weight.view(-1)[5] = -0.0
    base = layer.weight.clone()
    adapter = adapt(layer, dict(type='LIFT', rank=2, budget=3)).adapter
    nn.init.normal_(adapter.values)
    places = adapter.places.long()
    way_back = merge(nn.Sequential(layer))
    same = torch.ones(base.numel(), dtype=torch.bool)
    same[places] = False
    bits = layer.weight.flatten().view(torch.int64)
    before = base.flatten().view(torch.int64)
    assert torch.equal(bits == before, same)
    way_back.unmerge()
    assert torch.equal(layer.weight.view(torch.int64), base.view(torch.int64))


@pytest.mark.parametrize('name', ['linear', 'conv', 'grouped'])
def test_no_second_weight_is_kept_and_only_entries_get_gradients(name):
    build, shape = LAYERS[name]
    layer = adapt(build().requires_grad_(False), dict(type='LIFT', budget=5))
    kept = []

    def pack(tensor):
        kept.append(tensor)
        return tensor

    inputs = torch.randn(shape, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        output = layer(inputs)
    memory = {t.untyped_storage().data_ptr() for t in kept}
    own = {
        t.untyped_storage().data_ptr()
        for t in (inputs, *layer.state_dict().values())
    }
    assert memory <= own
    output.sum().backward()
    assert layer.weight.grad is None
    assert layer.adapter.values.grad.shape == (5,)


def test_small_updates_survive_autocast():
    torch.manual_seed(0)
    layer = nn.Linear(64, 64, bias=False).requires_grad_(False)
    settings = dict(type='LIFT', rank=8, density=0.5)
    layer = adapt(layer, settings)
    inputs = torch.randn(512, 64)
    upstream = torch.randn(512, 64)
    with torch.no_grad():
        layer.adapter.values.normal_(std=1e-4)
        exact = inputs @ layer.delta_weight().T
        with torch.autocast('cpu', torch.bfloat16):
            moved = layer(inputs).float()
            layer.adapter.values.mul_(0)
            moved -= layer(inputs).float()
    # Rounded to 8 bits, sums keep an update of 1e-4 in the mean: the slope of
    # the computed change on the true one has noise of 1 / √(512 · 64).
    slope = (moved * exact).sum() / exact.square().sum()
    assert slope == pytest.approx(1, abs=0.2)
    with torch.autocast('cpu', torch.bfloat16):
        layer(inputs).backward(upstream.bfloat16())
    gradient = layer.adapter.values.grad
    assert gradient.dtype == torch.float32
    expected = (upstream.T @ inputs).flatten()[layer.adapter.places.long()]
    # Six roundings of half a unit in the last of 8 bits.
    worst = 6 * 2**-9 * math.sqrt(512) * 4
    torch.testing.assert_close(gradient, expected, rtol=0, atol=worst)


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        (dict(budget=49), 'from 1 to the 48 that it has, got budget=49'),
        (dict(budget=0), 'from 1 to the 48'),
        (dict(budget=True), 'budget=True'),
        (dict(density=0.0), 'above 0 and at most 1, got density=0.0'),
        (dict(density=1.5), 'at most 1, got density=1.5'),
        (dict(density='5 %'), "`density` is a number, .* got density='5 %'"),
    ],
)
def test_settings_out_of_range(settings, message):
    for kind in ('SaRA', 'LIFT'):
        with pytest.raises((ValueError, TypeError), match=message) as caught:
            adapt(nn.Linear(6, 8), dict(type=kind, **settings))
        assert "Layer 'layer' (Linear, weight (8, 6))" in str(caught.value)
        assert kind in str(caught.value)


def load_as_torch(module, state):
    module.load_state_dict(state, strict=False)


def load_as_mmengine(module, state):
    """Load as the runner does: it only logs what ``nn.Module`` collects."""
    load_state_dict(module, state, strict=False)


@pytest.mark.parametrize('load', [load_as_torch, load_as_mmengine])
def test_places_of_another_weight_are_refused(load):
    one = adapt(nn.Linear(6, 8), dict(type='SaRA', budget=5))
    two = adapt(nn.Linear(8, 6), dict(type='SaRA', budget=5))
    before = copy.deepcopy(two.adapter.state_dict())
    with pytest.raises(ValueError, match=r'weight of shape \(8, 6\)'):
        load(two.adapter, one.adapter.state_dict())
    damaged = one.adapter.state_dict()
    damaged['places'] = damaged['places'] + 60
    with pytest.raises(ValueError, match='not all are from 0 to 47'):
        load(one.adapter, damaged)
    del damaged['places']
    with pytest.raises(ValueError, match='the values have no places'):
        load(one.adapter, damaged)
    after = two.adapter.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_all_of_a_weight_may_train():
    layer = adapt(nn.Linear(6, 8), dict(type='LIFT', density=1))
    assert layer.adapter.places.tolist() == list(range(48))
    tiny = adapt(nn.Linear(1, 3), dict(type='SaRA', density=0.01))
    assert tiny.adapter.values.shape == (1,)


def test_a_method_names_its_scores_alone(monkeypatch):
    class First(SparseAdapter):
        """Trains the first entries."""

        def __init__(self, weight, density=0.05, budget=None):
            super().__init__(weight, density, budget)
            self.begin(weight)

        def scores(self, weight):
            return -torch.arange(weight.numel(), device=weight.device)

    known = dict(ADAPTERS.module_dict, First=First)
    monkeypatch.setattr(ADAPTERS, '_module_dict', known)
    layer = adapt(nn.Conv2d(3, 4, 3), dict(type='First', budget=6))
    assert layer.adapter.places.tolist() == list(range(6))


def chosen(adapter):
    return set(adapter.places.tolist())


def test_s2ft_trains_whole_rows_or_columns(layer):
    for dim, side in enumerate(('rows', 'columns')):
        own = copy.deepcopy(layer)
        settings = dict(type='S2FT', density=0.7, side=side, choose='largest')
        adapter = adapt(own, settings).adapter
        count = max(1, int(0.7 * own.weight.shape[dim]))
        norms = own.weight.transpose(0, dim).flatten(1).norm(dim=1)
        order = norms.argsort(descending=True)
        assert chosen(adapter) == set(order[:count].tolist())
        nn.init.normal_(adapter.values)
        expected = torch.zeros_like(own.weight)
        for number, place in enumerate(adapter.places.tolist()):
            value = adapter.values.select(dim, number).detach()
            expected.select(dim, place).copy_(value)
        torch.testing.assert_close(adapter.delta_weight(), expected)
        settings = dict(type='S2FT', budget=1, side=side, choose='smallest')
        least = adapt(copy.deepcopy(layer), settings).adapter
        assert chosen(least) == {int(order[-1])}


@pytest.mark.parametrize('dim', [0, 1])
@pytest.mark.parametrize('name', ['linear', 'conv'])
def test_gradients_of_channels_are_products_of_these_channels(
    name, dim, monkeypatch
):
    """No gradient of the whole weight's shape is computed."""
    build, shape = LAYERS[name]
    settings = dict(type='S2FT', budget=2, side=('rows', 'columns')[dim])
    layer = adapt(build().requires_grad_(False), settings)
    shapes = []

    def watch(operator):
        whole = operator.weight_gradient

        def watched(self, gradient, inputs, weight):
            shapes.append(whole(self, gradient, inputs, weight).shape)
            return whole(self, gradient, inputs, weight)

        monkeypatch.setattr(operator, 'weight_gradient', watched)

    for operator in (Geometry, LinearMap):
        watch(operator)
    layer(torch.randn(shape)).sum().backward()
    assert shapes == [layer.adapter.values.shape]
    assert shapes[0][dim] == 2


def test_s2ft_chooses_heads_as_blocks():
    layer = nn.Linear(6, 8)
    sums = layer.weight.square().view(4, 2, 6).sum((1, 2))
    best = int(sums.argmax())
    settings = dict(type='S2FT', budget=1, choose='largest', block=2)
    adapter = adapt(layer, settings).adapter
    assert adapter.places.tolist() == [2 * best, 2 * best + 1]
    with pytest.raises(ValueError, match='block=3 does not divide the 8 rows'):
        adapt(nn.Linear(6, 8), dict(type='S2FT', block=3))
    random = {
        tuple(adapt(nn.Linear(6, 64), dict(type='S2FT')).adapter.places)
        for _ in range(3)
    }
    assert len(random) > 1


def channels_of(layer, tensor):
    """Return the entries that lead to each output channel."""
    if not getattr(layer, 'transposed', False):
        return list(tensor)
    inputs = len(tensor) // layer.groups
    return [
        tensor[group * inputs :][:inputs, out]
        for group in range(layer.groups)
        for out in range(tensor.shape[1])
    ]


def test_gps_trains_the_largest_gradients_of_each_output_channel(layer):
    gradient = torch.randn_like(layer.weight)
    adapter = adapt(layer, dict(type='GPS', per_neuron=2)).adapter
    adapter.calibrate(layer, gradient)
    numbers = torch.arange(gradient.numel()).view(gradient.shape)
    places = channels_of(layer, numbers)
    values = channels_of(layer, gradient)
    assert len(places) == len(layer.bias)
    expected = set()
    for own, sizes in zip(places, values, strict=True):
        best = sizes.abs().flatten().argsort(descending=True)[:2]
        expected |= set(own.flatten()[best].tolist())
    assert chosen(adapter) == expected
    again = type(adapter).restored(adapter.state_dict(), dict(per_neuron=2))
    assert again.places.tolist() == adapter.places.tolist()


def test_gps_refuses_more_entries_than_a_neuron_has():
    with pytest.raises(ValueError, match='of the 6 entries of each output'):
        adapt(nn.Linear(6, 8), dict(type='GPS', per_neuron=7))


def spt_by_hand(gradients, density, rank, ratio):
    """Return each layer's form by the rule of the authors' release."""
    sensitive = {
        name: torch.stack([one[name] for one in gradients]).square().mean(0)
        for name in gradients[0]
    }
    whole = torch.cat([one.flatten() for one in sensitive.values()])
    total = int(density * len(whole))
    threshold = whole.sort(descending=True).values[total - 1]
    found = {}
    for name, values in sensitive.items():
        mask = values >= threshold
        parameters = rank * (len(values) + values[0].numel())
        lora = int(mask.sum()) >= parameters / ratio
        places = mask.flatten().nonzero().flatten().tolist()
        found[name] = 'LoRA' if lora else places
    return found


def test_spt_follows_the_sensitivities_of_all_layers():
    torch.manual_seed(3)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(32, 12), nn.Linear(12, 9)
    ).double()
    frozen = copy.deepcopy(model)
    batches = [torch.randn(2, 3, 4, 4).double() for _ in range(3)]
    gradients = []
    for batch in batches:
        frozen.zero_grad()
        frozen(batch).square().mean().backward()
        gradients.append({i: frozen[i].weight.grad.clone() for i in (0, 2, 3)})
    settings = dict(rank=2, density=0.05, ratio=5.0)
    expected = spt_by_hand(gradients, 0.05, rank=2, ratio=5.0)
    assert 'LoRA' in expected.values()
    assert any(isinstance(one, list) and one for one in expected.values())

    inject(model, dict(type='SPT', **settings))
    calibrate(model, batches, lambda batch: model(batch).square().mean())
    for number, form in expected.items():
        adapter = model[number].adapter
        assert not adapter.delta_weight().any()
        nn.init.normal_(adapter.values)
        shape, values = adapter.weight_shape, adapter.values.detach()
        if form == 'LoRA':
            up, down = values.split([2 * shape[0], 2 * shape[1:].numel()])
            delta = (up.view(-1, 2) @ down.view(2, -1)).view(shape)
            assert adapter.trained() == len(values)
        else:
            delta = torch.zeros(shape.numel(), dtype=torch.float64)
            delta[form] = values[: len(form)]
            delta = delta.view(shape)
            assert adapter.trained() == len(form)
        torch.testing.assert_close(adapter.delta_weight().detach(), delta)
        again = type(adapter).restored(adapter.state_dict(), settings)
        torch.testing.assert_close(again.delta_weight(), delta)


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        (dict(ratio=0.5), '`ratio` is at least 1'),
        (dict(density=0), 'above 0 and at most 1'),
        (dict(rank=0), '`rank` is an integer'),
    ],
)
def test_spts_settings_out_of_range(settings, message):
    with pytest.raises(ValueError, match=message):
        adapt(nn.Linear(6, 8), dict(type='SPT', **settings))


def settled_by_hand(layer, places, values):
    """Return which entries go on, from the paper's rule."""
    weight = layer.weight.flatten()[places]
    threshold = weight.abs().max()
    return (weight + values).abs() <= threshold


def test_sara_settles_what_has_become_effective(layer):
    stock, settings = copy.deepcopy(layer), dict(type='SaRA', density=0.5)
    adapter = adapt(layer, settings).adapter
    limit = float(layer.weight.flatten()[adapter.places.long()].abs().max())
    nn.init.normal_(adapter.values, std=limit)
    places, values = adapter.places.long(), adapter.values.detach().clone()
    goes_on = settled_by_hand(layer, places, values)
    assert 0 < goes_on.sum() < len(goes_on)
    before = adapter.delta_weight().detach()
    assert adapter.settle(layer) == int(goes_on.sum())
    assert torch.equal(adapter.active, goes_on)
    torch.testing.assert_close(adapter.delta_weight(), before)
    with torch.no_grad():
        adapter.values.add_(1.0)  # as momentum and decay may do
    moved = (adapter.delta_weight() - before).flatten()[places]
    torch.testing.assert_close(moved, goes_on.double())
    adapter.delta_weight().sum().backward()
    assert torch.equal(adapter.values.grad, goes_on.double())
    again = adapt(stock, settings).adapter
    again.load_state_dict(adapter.state_dict())
    torch.testing.assert_close(again.delta_weight(), adapter.delta_weight())


def test_saras_penalty_is_the_gradient_of_the_nuclear_norm(layer):
    adapter = adapt(layer, dict(type='SaRA', density=0.5)).adapter
    nn.init.normal_(adapter.values, std=0.1)
    adapter.settle(layer)
    nn.init.normal_(adapter.values, std=0.1)
    mask = torch.zeros(layer.weight.numel(), dtype=torch.float64)
    mask[adapter.places.long()] = adapter.active.double()
    whole = layer.weight + adapter.delta_weight()
    masked = (whole.flatten() * mask).view(layer.weight.shape).flatten(1)
    torch.linalg.svdvals(masked).sum().backward()
    torch.testing.assert_close(
        adapter.penalty_gradient(layer), adapter.values.grad
    )


@pytest.mark.parametrize('shape', [(6, 9), (9, 6), (7, 7)])
def test_the_polar_factor_is_that_of_a_decomposition(shape):
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(shape, generator=generator, dtype=torch.float64)
    u, _, vh = torch.linalg.svd(matrix, full_matrices=False)
    torch.testing.assert_close(
        polar_factor(matrix), u @ vh, rtol=1e-10, atol=1e-12
    )


def test_the_polar_factor_leaves_directions_without_size_out():
    generator = torch.Generator().manual_seed(0)
    left, right = (
        torch.randn(8, 2, generator=generator, dtype=torch.float64)
        for _ in range(2)
    )
    polar = polar_factor(left @ right.T)
    sizes = torch.linalg.svdvals(polar)
    wanted = torch.tensor([1.0] * 2 + [0.0] * 6, dtype=torch.float64)
    torch.testing.assert_close(sizes, wanted, rtol=1e-10, atol=1e-10)
    assert not polar_factor(torch.zeros(3, 4)).any()


@pytest.mark.parametrize('kind', ['GPS', 'SPT', 'LotteryTicket'])
def test_over_another_base_the_start_is_to_be_made_again(kind):
    layer = adapt(nn.Linear(6, 8), dict(type=kind))
    layer(torch.randn(2, 6))
    layer.adapter.follow(layer)
    assert not layer.adapter.is_calibrated
    with pytest.raises(RuntimeError, match='no start yet'):
        layer(torch.randn(2, 6))
