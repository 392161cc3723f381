"""Starts from data: statistics, the methods' formulas, refusals."""

import copy

import pytest
import torch
from layer_cases import CASES
from method_cases import adapt, left_out
from torch import nn

import mmflora
from mmflora.adapters import adapted_modules, inject, merge
from mmflora.adapters.calibrated import Calibration, set_calibration
from mmflora.adapters.calibration import passes
from mmflora.adapters.layer_statistics import STATISTICS, patches
from mmflora.models.peft_options import PEFTOptions

EXACT = dict(rtol=1e-9, atol=1e-12)
METHODS = {
    'CorDA': dict(type='CorDA', rank=2, alpha=3.0),
    'LoRASB': dict(type='LoRASB', rank=2, step=0.1),
    'FLoRA': dict(type='FLoRA', rank=2, start='gradient'),
    'SPT': dict(type='SPT', rank=2, density=0.05, ratio=1.0),
    'EVA': dict(type='EVA', rank=3, alpha=2.0),
    'LoRAGA': dict(type='LoRAGA', rank=2, alpha=3.0, gamma=2.0),
}
WITH_PATCHES = [
    name
    for name, case in CASES.items()
    if not left_out('CorDA', name) and not case.read
]


class Net(nn.Module):
    """Convolutions of several kinds, a norm, and a classifier."""

    def __init__(self):
        super().__init__()
        self.convs = nn.Sequential(
            nn.Conv2d(3, 6, 3, padding=1, stride=2),
            nn.BatchNorm2d(6),
            nn.Conv2d(6, 4, (3, 2), groups=2),
        )
        self.head = nn.Linear(4, 3)

    def forward(self, images):
        return self.head(torch.tanh(self.convs(images)).mean((2, 3)))


@pytest.fixture
def net():
    torch.manual_seed(0)
    return Net().double().requires_grad_(False)


@pytest.fixture
def batches():
    draw = torch.Generator().manual_seed(1)
    return [
        torch.randn(4, 3, 9, 8, generator=draw, dtype=torch.float64) + number
        for number in range(3)
    ]


def loss_of(model):
    return lambda batch: model(batch).square().mean()


def started(net, batches, method, **options):
    model = copy.deepcopy(net)
    inject(model, METHODS[method] | options)
    mmflora.calibrate(model, batches, loss_of(model))
    return model


def mean_gradients(net, batches):
    """Return the averaged gradient of each weight, by plain autograd."""
    twin = copy.deepcopy(net)
    for parameter in twin.parameters():
        parameter.requires_grad_(True)
    for batch in batches:
        (loss_of(twin)(batch) / len(batches)).backward()
    return {name: p.grad for name, p in twin.named_parameters()}


@pytest.mark.parametrize('case', WITH_PATCHES)
def test_patches_times_the_weight_are_the_output(case):
    layer = adapt(CASES[case].stock(), dict(type='LoRA', rank=1))
    inputs = CASES[case].inputs()
    groups = getattr(layer, 'groups', 1)
    output = layer.compute(inputs, layer.weight, None)
    rows = list(patches(layer, inputs))
    if layer.weight.dim() == 2:
        found = (rows[0] @ layer.weight.T).reshape(output.shape)
    elif rows:
        kernels = layer.weight.flatten(1).chunk(groups)
        columns = [
            (own @ kernels[number % groups].T).T
            for number, own in enumerate(rows)  # image by image, by group
        ]
        found = torch.stack(columns).reshape(output.shape)
    else:
        found = output.new_empty(output.shape)
    torch.testing.assert_close(found, output, **EXACT)


class Patches(nn.Module):
    """May read the weight of its convolution, as timm's patch embedding."""

    def __init__(self):
        super().__init__()
        self.proj = nn.Conv2d(4, 6, (3, 2), stride=2, groups=2)

    def forward(self, images):
        return self.proj(images)

    def with_kernel(self, images):
        kernel = self.proj.weight.flip(-1)
        return nn.functional.conv2d(images, kernel, stride=2, groups=2)


def test_patches_of_a_convolution_that_its_parent_reads():
    stock = Patches().double().requires_grad_(False)
    inputs = torch.randn(2, 4, 7, 6, dtype=torch.float64)
    plain = copy.deepcopy(stock.proj)
    inject(stock, METHODS['CorDA'])
    assert not hasattr(stock.proj, 'compute')
    found = list(patches(stock.proj, inputs))
    wanted = list(patches(adapt(plain, METHODS['CorDA']), inputs))
    assert len(found) == len(wanted) == 4  # two images of two groups
    for ours, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, **EXACT)


def second_moment(net, batches):
    """Return E[x xᵀ] of the first convolution's patches, by unfolding."""
    options = dict(kernel_size=3, padding=1, stride=2)
    columns = torch.cat(
        [nn.functional.unfold(batch, **options) for batch in batches]
    )
    rows = columns.transpose(1, 2).flatten(0, 1)
    return rows.T @ rows / len(rows)


@pytest.mark.parametrize('mode', ['preview', 'preserve'])
def test_corda_decomposes_the_weight_in_its_context(net, batches, mode):
    adapter = started(net, batches, 'CorDA', mode=mode).convs[0].adapter
    moment = second_moment(net, batches)
    # Of the authors' release: 1 % of the diagonal's mean, at first.
    moment += 0.01 * moment.diagonal().mean() * torch.eye(27).double()
    weight = net.convs[0].weight.flatten(1)
    u, s, vh = torch.linalg.svd(weight @ moment, full_matrices=False)
    own = slice(2) if mode == 'preview' else slice(4, 6)
    expected = u[:, own] @ s[own].diag() @ vh[own] @ moment.inverse()
    product = adapter.up @ adapter.down.flatten(1) * adapter.scale
    torch.testing.assert_close(product, expected, rtol=1e-6, atol=1e-9)
    norms = adapter.up.norm(dim=0) ** 2 * adapter.scale
    torch.testing.assert_close(norms, s[own], rtol=1e-6, atol=1e-9)
    assert not adapter.delta_weight().any()


def test_all_components_of_corda_are_the_weight(net, batches):
    adapter = started(net, batches, 'CorDA', rank=9).convs[0].adapter
    product = adapter.up @ adapter.down.flatten(1) * adapter.scale
    torch.testing.assert_close(
        product, net.convs[0].weight.flatten(1), rtol=1e-6, atol=1e-8
    )


@pytest.mark.parametrize('name', ['convs.0', 'convs.2', 'head'])
def test_lora_sb_starts_at_the_best_step(net, batches, name):
    model = started(net, batches, 'LoRASB')
    gradient = mean_gradients(net, batches)[f'{name}.weight']
    step = -0.1 * gradient.sign().flatten(1)
    u, s, vh = torch.linalg.svd(step)
    best = u[:, :2] @ s[:2].diag() @ vh[:2]
    layer = model.get_submodule(name)
    torch.testing.assert_close(layer.delta_weight().flatten(1), best, **EXACT)
    adapter = layer.adapter
    unit = torch.eye(2, dtype=torch.float64)
    right = adapter.right.flatten(1)
    torch.testing.assert_close(adapter.left.T @ adapter.left, unit)
    torch.testing.assert_close(right @ right.T, unit)
    trained = [n for n, _ in adapter.named_parameters()]
    assert trained == ['core']


def inputs_of(net, batches):
    """Return the vectors that each weight's rows multiply, by unfolding."""
    first = nn.functional.unfold
    maps = [(batch, net.convs[:2](batch)) for batch in batches]
    whole = [first(x, 3, padding=1, stride=2) for x, _ in maps]
    halves = [first(half, (3, 2)) for _, y in maps for half in y.chunk(2, 1)]
    last = [torch.tanh(net.convs(batch)).mean((2, 3)) for batch in batches]
    return {
        'convs.0': torch.cat(whole).transpose(1, 2).flatten(0, 1),
        'convs.2': torch.cat(halves).transpose(1, 2).flatten(0, 1),
        'head': torch.cat(last),
    }


# Eigenvectors of a second moment have the error of its entries, 1e-16 of the
# largest eigenvalue, over the gap of their eigenvalues, here 1e-4 of it.
SQUARED = dict(rtol=1e-8, atol=1e-10)


def test_eva_starts_at_the_right_singular_vectors(net, batches):
    model = started(net, batches, 'EVA', rho=1.0)
    for name, rows in inputs_of(net, batches).items():
        layer = model.get_submodule(name)
        _, _, vh = torch.linalg.svd(rows, full_matrices=False)
        found = layer.adapter.down.flatten(1)
        signs = (found * vh[: len(found)]).sum(1, keepdim=True).sign()
        torch.testing.assert_close(found, signs * vh[: len(found)], **SQUARED)
        assert not layer.adapter.up.any()
        assert not layer.delta_weight().any()


@pytest.mark.parametrize(('rho', 'total'), [(1.5, 6), (2.0, 4), (100.0, 1)])
def test_eva_shares_ranks_by_the_variance_explained(net, batches, rho, total):
    model = started(net, batches, 'EVA', rho=rho)
    shares = []
    for name, rows in inputs_of(net, batches).items():
        values = torch.linalg.svdvals(rows).square()
        shares += [(float(v / values.sum()), name) for v in values[:3]]
    expected = [name for _, name in sorted(shares)[-total:]]
    names = ('convs.0', 'convs.2', 'head')
    layers = {name: model.get_submodule(name) for name in names}
    ranks = {
        name: int(layer.adapter.down.flatten(1).any(1).sum())
        for name, layer in layers.items()
    }
    assert ranks == {name: expected.count(name) for name in layers}


def test_directions_that_eva_does_not_keep_stay_zero(net, batches):
    model = started(net, batches, 'EVA', rho=2.0)
    adapters = [layer.adapter for layer in adapted_modules(model).values()]
    kept = [one.down.flatten(1).any(1) for one in adapters]
    assert sum(int(one.sum()) for one in kept) == 4
    own = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(own, lr=0.1, weight_decay=0.1)
    for batch in batches * 2:
        optimizer.zero_grad()
        loss_of(model)(batch).backward()
        optimizer.step()
    for one, rows in zip(adapters, kept, strict=True):
        assert torch.equal(one.down.flatten(1).any(1), rows)
        assert torch.equal(one.up.any(0), rows)


@pytest.mark.parametrize('name', ['convs.0', 'convs.2', 'head'])
@pytest.mark.parametrize('rank', [1, 2, 3])
def test_lora_ga_starts_along_the_gradient(net, batches, name, rank):
    layer = started(net, batches, 'LoRAGA', rank=rank).get_submodule(name)
    gradient = mean_gradients(net, batches)[f'{name}.weight'].flatten(1)
    u, s, vh = torch.linalg.svd(gradient, full_matrices=False)
    size = len(gradient) ** 0.25 / 2.0**0.5
    last = min(2 * rank, len(s))
    adapter = layer.adapter
    assert adapter.scale == pytest.approx(3.0 / rank**0.5)
    pairs = (
        (adapter.down.flatten(1), vh[:rank]),
        (adapter.up.T, u[:, last - rank : last].T),
    )
    for found, directions in pairs:
        signs = (found * directions).sum(1, keepdim=True).sign()
        torch.testing.assert_close(found, signs * size * directions, **EXACT)
    assert not layer.delta_weight().any()


def test_the_first_step_of_lora_ga_is_the_best_of_twice_the_rank(net, batches):
    """In B A it is B0 dA + dB A0, a projection of the weight's gradient."""
    model = started(net, batches, 'LoRAGA', rank=2)
    for batch in batches:
        (loss_of(model)(batch) / len(batches)).backward()
    adapter = model.convs[0].adapter
    gradient = mean_gradients(net, batches)['convs.0.weight'].flatten(1)
    u, s, vh = torch.linalg.svd(gradient, full_matrices=False)
    best = u[:, :4] @ s[:4].diag() @ vh[:4]
    step = adapter.up.grad @ adapter.down.flatten(1)
    step = step + adapter.up @ adapter.down.grad.flatten(1)
    factor = adapter.scale * len(gradient) ** 0.5 / 2.0
    torch.testing.assert_close(step, factor * best, **EXACT)


def modes(tensor):
    return [tensor.movedim(n, 0).flatten(1) for n in range(tensor.dim())]


@pytest.mark.parametrize('name', ['convs.0', 'convs.2', 'head'])
def test_flora_spans_the_modes_of_the_gradient(net, batches, name):
    model = started(net, batches, 'FLoRA')
    gradient = mean_gradients(net, batches)[f'{name}.weight']
    adapter = model.get_submodule(name).adapter
    assert not adapter.core.any()
    for factor, unfolded in zip(adapter.factors, modes(gradient), strict=True):
        rank = factor.shape[1]
        u = torch.linalg.svd(unfolded)[0][:, :rank]
        torch.testing.assert_close(
            factor @ factor.T, u @ u.T, rtol=1e-6, atol=1e-8
        )


@pytest.mark.parametrize('name', ['convs.0', 'convs.2', 'head'])
def test_flora_starts_at_the_modes_of_the_weight(net, name):
    inject(net, dict(type='FLoRA', rank=2, scale=0.5, start='weight'))
    layer = net.get_submodule(name)
    adapter, weight = layer.adapter, layer.weight
    projected = weight
    for mode, unfolded in enumerate(modes(weight)):
        rank = adapter.ranks[mode]
        u = torch.linalg.svd(unfolded)[0][:, :rank]
        projected = torch.tensordot(u @ u.T, projected, ([1], [mode]))
        projected = projected.movedim(0, mode)
    whole = mmflora.adapters.tucker_to_weight
    start = whole(adapter.core, tuple(adapter.factors))
    torch.testing.assert_close(0.5 * start, projected, rtol=1e-6, atol=1e-9)
    assert not adapter.delta_weight().any()
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.add_(torch.randn_like(parameter))
    moved = whole(adapter.core, tuple(adapter.factors))
    torch.testing.assert_close(
        adapter.delta_weight(), 0.5 * (moved - start), **EXACT
    )
    torch.testing.assert_close(
        adapter.update().dense(), 0.5 * (moved - start), **EXACT
    )


@pytest.mark.parametrize('method', METHODS)
def test_passes_of_single_layers_find_the_same(net, batches, method):
    whole = started(net, batches, method)
    single = copy.deepcopy(net)
    inject(single, METHODS[method])
    seen = []
    names = mmflora.calibrate(
        single,
        batches,
        loss_of(single),
        gigabytes=1e-7,
        average=lambda mean: seen.append(mean.shape),
        progress=lambda: seen.append(None),
    )
    assert len(names) == 3
    assert seen.count(None) == 9
    assert len(seen) == 12
    for name, module in adapted_modules(whole).items():
        other = single.get_submodule(name).adapter.state_dict()
        for key, value in module.adapter.state_dict().items():
            torch.testing.assert_close(other[key], value, **EXACT)


def test_one_pass_holds_what_fits():
    net = nn.Sequential(*[nn.Linear(10, 10) for _ in range(5)]).double()
    inject(net, METHODS['CorDA'], {'[01]': {}, '.*': METHODS['LoRASB']})
    layers = adapted_modules(net)
    size = 100 * 8 * 1e-9
    found = passes(layers, 2.5 * size)
    assert [(kind, list(part)) for kind, part in found] == [
        ('second moment', ['0', '1']),
        ('gradient', ['2', '3']),
        ('gradient', ['4']),
    ]


@pytest.mark.parametrize('method', METHODS)
def test_the_start_is_kept_loaded_and_never_made_again(net, batches, method):
    model = started(net, batches, method)
    other = copy.deepcopy(net)
    inject(other, METHODS[method])
    with pytest.raises(RuntimeError, match='no start yet'):
        other(batches[0])
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(batches[0]), model(batches[0]))
    assert not mmflora.calibrate(other, batches, loss_of(other))
    twin = copy.deepcopy(model)
    assert not mmflora.calibrate(twin, batches, loss_of(twin))
    adapted = model.eval()(batches[0])
    merge(model)
    torch.testing.assert_close(model(batches[0]), adapted, **EXACT)


@pytest.mark.parametrize('method', METHODS)
def test_no_way_through_a_layer_trains_without_a_start(net, batches, method):
    dropped = copy.deepcopy(net)
    inject(dropped, dict(METHODS[method], dropout=0.5))
    read = nn.MultiheadAttention(8, 2).double()  # its weights are read
    inject(read, METHODS[method], r'.*out_proj')
    row = torch.randn(3, 8, dtype=torch.float64)
    with pytest.raises(RuntimeError, match='no start yet'):
        dropped(batches[0])
    with pytest.raises(RuntimeError, match='no start yet'):
        read(row, row, row)[0].sum().backward()
    dropped.eval()(batches[0])


@pytest.mark.parametrize('method', METHODS)
def test_nothing_else_changes(net, batches, method):
    model = copy.deepcopy(net)
    inject(model, METHODS[method])
    model.convs[0].weight.requires_grad_(True)  # a base that is new trains
    trains = {n: p.requires_grad for n, p in model.named_parameters()}
    frozen = {n: model.state_dict()[n].clone() for n in net.state_dict()}
    mmflora.calibrate(model.eval().train(), batches, loss_of(model))
    assert trains == {n: p.requires_grad for n, p in model.named_parameters()}
    assert all(p.grad is None for p in model.parameters())
    for name, value in frozen.items():
        if 'running' not in name and 'tracked' not in name:
            assert torch.equal(model.state_dict()[name], value)
    assert not model.head._forward_pre_hooks


def test_what_cannot_be_calibrated_is_refused(net, batches):
    inject(net, METHODS['CorDA'])
    loss = loss_of(net)
    with pytest.raises(ValueError, match='no batches'):
        mmflora.calibrate(net, [], loss)
    with pytest.raises(ValueError, match='never at a test'):
        mmflora.calibrate(net.eval(), batches, loss)
    with pytest.raises(ValueError, match=r"never reached layer 'convs.0'"):
        mmflora.calibrate(net.train(), batches, lambda _: torch.zeros(()))


@pytest.mark.parametrize(
    ('settings', 'error', 'message'),
    [
        (3, TypeError, 'number of batches, such as'),
        (dict(gigabytes=1), TypeError, 'number of batches, such as'),
        (dict(batches=2, rank=3), TypeError, "no setting 'rank'"),
        (dict(batches=0), ValueError, 'batches=0'),
        (dict(batches=1.5), ValueError, 'batches=1.5'),
        (dict(batches=2, gigabytes=-1.0), ValueError, 'gigabytes=-1.0'),
        (dict(batches=2, gigabytes='a'), TypeError, "gigabytes='a'"),
    ],
)
def test_wrong_settings_are_refused(settings, error, message):
    with pytest.raises(error, match=message):
        Calibration.of(settings)


def test_the_setting_goes_with_the_methods_that_need_it(net):
    assert PEFTOptions.of(dict(adapter=None)).calibration is None
    plain = copy.deepcopy(net)
    inject(plain, dict(type='FLoRA', rank=2))
    set_calibration(plain, None)
    with pytest.raises(ValueError, match='no adapter of Net starts'):
        set_calibration(plain, dict(batches=2))
    inject(net, METHODS['LoRASB'])
    with pytest.raises(ValueError, match=r"LoRASB in 'convs.0'.*batches=8"):
        set_calibration(net, None)
    set_calibration(net, dict(batches=2, gigabytes=1))
    assert net.head.adapter.calibration == Calibration(2, 1.0)


def test_every_statistic_is_asked_for():
    asked = set()
    for settings in METHODS.values():
        layer = adapt(nn.Linear(4, 4), settings)
        asked.add(layer.adapter.statistic)
    # A file gives the movement, see tests/test_extract/test_ticket.py, and
    # blocks have norms of channels, see tests/test_models/test_sct.py.
    assert asked == set(STATISTICS) - {'movement', 'channel norms'}


def test_batches_do_not_tell_what_a_training_moves(net, batches):
    inject(net, dict(type='LotteryTicket', density=0.5))
    with pytest.raises(ValueError, match=r'adapters\.py ticket FINETUNED'):
        mmflora.calibrate(net, batches, loss_of(net))
    set_calibration(net, None)
    with pytest.raises(RuntimeError, match=r'adapters\.py ticket FINETUNED'):
        net(batches[0])
