"""LoRA against loralib; DoRA, PiSSA and OLoRA against huggingface/peft."""

import copy

import loralib
import pytest
import torch
import torch.nn.functional as F
from method_cases import adapt
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mmflora.adapters import DoRA, inject
from mmflora.adapters.functional import channel_norms

EXACT = dict(rtol=1e-10, atol=1e-12)
RANK, ALPHA = 3, 5.0


def loralib_conv(inputs=6, outputs=8, kernel=3, **options):
    return loralib.Conv2d(
        inputs, outputs, kernel, r=RANK, lora_alpha=ALPHA, **options
    )


LORALIB = {
    'linear': lambda: loralib.Linear(6, 8, r=RANK, lora_alpha=ALPHA),
    'conv': loralib_conv,
    '1x1': lambda: loralib_conv(kernel=1),
    'groups': lambda: loralib_conv(groups=2, padding=1),
    'depthwise': lambda: loralib_conv(6, 6, 5, groups=6, padding=2),
    'stride': lambda: loralib_conv(stride=2, dilation=2),
}


@pytest.mark.parametrize('build', LORALIB.values(), ids=LORALIB)
@pytest.mark.parametrize('path', ['auto', 'dense', 'folded', 'factored'])
def test_values_and_gradients_are_loralibs(build, path):
    theirs = build().double()
    frozen = getattr(theirs, 'conv', theirs)
    ours = copy.deepcopy(frozen)
    if isinstance(theirs, loralib.Linear):
        ours = nn.Linear(6, 8).double()
    ours.load_state_dict(frozen.state_dict(), strict=False)
    settings = dict(type='LoRA', rank=RANK, alpha=ALPHA, form='loralib')
    adapt(ours, settings, path=path)
    nn.init.normal_(theirs.lora_A)
    nn.init.normal_(theirs.lora_B)
    with torch.no_grad():
        ours.adapter.down.copy_(theirs.lora_A)
        ours.adapter.up.copy_(theirs.lora_B)
    compare(
        ours,
        theirs,
        [
            (ours.adapter.down, theirs.lora_A),
            (ours.adapter.up, theirs.lora_B),
        ],
    )


def compare(ours, theirs, pairs):
    shape = (2, 5, 6) if isinstance(ours, nn.Linear) else (2, 6, 9, 8)
    shape = shape if ours.weight.dim() != 3 else (2, 6, 9)
    shape = shape if ours.weight.dim() != 5 else (2, 6, 5, 4, 6)
    one = torch.randn(shape, dtype=torch.float64).requires_grad_()
    other = one.detach().clone().requires_grad_()
    output, expected = ours(one), theirs(other)
    torch.testing.assert_close(output, expected, **EXACT)
    upstream = torch.randn_like(output)
    output.backward(upstream)
    expected.backward(upstream)
    torch.testing.assert_close(one.grad, other.grad, **EXACT)
    for mine, reference in pairs:
        assert reference.grad.any()
        gradient = reference.grad.view_as(mine.grad)
        torch.testing.assert_close(mine.grad, gradient, **EXACT)


def test_spatial_form_of_a_grouped_layer_is_two_convolutions_by_group():
    geometry = dict(stride=2, padding=1, dilation=(1, 2))
    layer = nn.Conv2d(6, 8, 3, groups=2, **geometry).double()
    stock = copy.deepcopy(layer)
    adapt(layer, dict(type='LoRA', rank=RANK, alpha=ALPHA))
    nn.init.normal_(layer.adapter.up)
    inputs = torch.randn(2, 6, 9, 8, dtype=torch.float64)
    expected = stock(inputs)
    for group, part in enumerate(inputs.chunk(2, 1)):
        down = F.conv2d(part, layer.adapter.down, **geometry)
        up = layer.adapter.up[4 * group : 4 * group + 4, :, None, None]
        expected[:, 4 * group : 4 * group + 4] += (
            ALPHA / RANK * F.conv2d(down, up)
        )
    torch.testing.assert_close(layer(inputs), expected, **EXACT)


def peft_layer(layer, **options):
    """Let peft adapt a layer; return its layer."""
    import peft

    config = peft.LoraConfig(
        r=RANK, lora_alpha=ALPHA, target_modules=['0'], **options
    )
    model = nn.Sequential(copy.deepcopy(layer))
    return peft.inject_adapter_in_model(config, model)[0]


STOCK = {
    'linear': lambda: nn.Linear(6, 8),
    'linear, no bias': lambda: nn.Linear(6, 8, bias=False),
    'conv': lambda: nn.Conv2d(6, 8, 3, padding=1, stride=2),
    'conv1d': lambda: nn.Conv1d(6, 8, 3),
    'conv3d': lambda: nn.Conv3d(6, 8, (1, 2, 3)),
}
MEANINGS = {
    'lora': (dict(type='LoRA'), {}),
    'rslora': (dict(type='LoRA', rslora=True), dict(use_rslora=True)),
    'dora': (dict(type='DoRA'), dict(use_dora=True)),
}


@pytest.mark.parametrize('build', STOCK.values(), ids=STOCK)
@pytest.mark.parametrize(
    ('settings', 'options'), MEANINGS.values(), ids=MEANINGS
)
@pytest.mark.parametrize('path', ['auto', 'dense', 'folded', 'factored'])
def test_values_and_gradients_are_pefts(build, settings, options, path):
    ours = build().double()
    theirs = peft_layer(ours, **options).double()
    adapt(ours, settings, rank=RANK, alpha=ALPHA, path=path)
    down, up = theirs.lora_A['default'].weight, theirs.lora_B['default'].weight
    pairs = [(ours.adapter.down, down), (ours.adapter.up, up)]
    if settings['type'] == 'DoRA':
        magnitude = theirs.lora_magnitude_vector['default'].weight
        pairs.append((ours.adapter.magnitude, magnitude))
    for mine, reference in pairs:
        nn.init.normal_(reference, mean=0.5)
        mine.data.copy_(reference.data.view_as(mine))
    compare(ours, theirs, pairs)


@pytest.mark.parametrize('kind', ['PiSSA', 'OLoRA'])
@pytest.mark.parametrize('alpha', [RANK, ALPHA])
def test_starts_are_pefts(kind, alpha):
    import peft

    ours = nn.Linear(6, 8)
    config = peft.LoraConfig(
        r=RANK,
        lora_alpha=alpha,
        target_modules=['0'],
        init_lora_weights=kind.lower(),
    )
    model = nn.Sequential(copy.deepcopy(ours))
    theirs = peft.inject_adapter_in_model(config, model)[0].double()
    ours = ours.double()
    adapt(ours, dict(type=kind, rank=RANK, alpha=float(alpha)))
    down, up = theirs.lora_A['default'].weight, theirs.lora_B['default'].weight
    # Peft rounds the starts to single precision.
    rounded = dict(rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(ours.adapter.down, down, **rounded)
    torch.testing.assert_close(ours.adapter.up, up, **rounded)
    scale = ours.adapter.scale
    torch.testing.assert_close(
        theirs.get_base_layer().weight,
        ours.weight - scale * ours.adapter.start_up @ ours.adapter.start_down,
        **rounded,
    )
    # The rest of the comparison has the very same numbers on both sides.
    move = [torch.randn_like(down), torch.randn_like(up)]
    with torch.no_grad():
        down.copy_(ours.adapter.down + move[0])
        up.copy_(ours.adapter.up + move[1])
        ours.adapter.down.add_(move[0])
        ours.adapter.up.add_(move[1])
        start = ours.adapter.start_up @ ours.adapter.start_down
        theirs.get_base_layer().weight.copy_(ours.weight - scale * start)
    compare(ours, theirs, [(ours.adapter.down, down), (ours.adapter.up, up)])


def test_lora_xs_is_a_core_between_leading_singular_vectors():
    layer = nn.Conv2d(5, 30, 2).double()
    adapter = adapt(layer, dict(type='LoRAXS', rank=4, alpha=6.0)).adapter
    matrix = layer.weight.detach().flatten(1)
    values = torch.linalg.svdvals(matrix)[:4]
    left, right = adapter.left, adapter.right.flatten(1)
    torch.testing.assert_close(left.T @ left, values.square().diag(), **EXACT)
    torch.testing.assert_close(
        right @ right.T, torch.eye(4, dtype=torch.float64), **EXACT
    )
    torch.testing.assert_close(matrix @ right.T, left, **EXACT)
    nn.init.normal_(adapter.core)
    expected = 1.5 * left @ adapter.core @ right
    torch.testing.assert_close(
        adapter.delta_weight().flatten(1), expected, **EXACT
    )


def test_iterated_starts_are_near_the_exact_ones():
    layer = nn.Linear(60, 40).double()
    u, _, vh = torch.linalg.svd(layer.weight.detach(), full_matrices=False)
    values = 0.5 ** torch.arange(40, dtype=torch.float64)
    layer.weight = nn.Parameter(u * values @ vh)
    exact = adapt(copy.deepcopy(layer), dict(type='LoRAXS', rank=3))
    near = adapt(layer, dict(type='LoRAXS', rank=3, iterations=8))
    products = [
        item.adapter.left @ item.adapter.right for item in (exact, near)
    ]
    torch.testing.assert_close(*products, rtol=1e-6, atol=1e-8)


class Largest(TorchDispatchMode):
    """Notes the size of the largest tensor made, views left out."""

    def __init__(self, *given):
        super().__init__()
        self.given = {t.untyped_storage().data_ptr() for t in given}
        self.size = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        output = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(output):
            own = isinstance(tensor, torch.Tensor) and (
                tensor.untyped_storage().data_ptr() not in self.given
            )
            self.size = max(self.size, tensor.numel() if own else 0)
        return output


def test_doras_scale_by_the_factors_makes_nothing_of_the_weights_size():
    layer = adapt(nn.Linear(96, 64), dict(type='DoRA', rank=2))
    nn.init.normal_(layer.adapter.up)
    weight = layer.weight
    with Largest(weight) as by_factors:
        scale = layer.adapter.output_scale(weight)
    with Largest(weight) as by_the_sum:
        whole = layer.adapter.adapted_weight(weight)
    assert by_factors.size < weight.numel() // 10
    assert by_the_sum.size >= weight.numel()
    update = layer.adapter.delta_weight()
    torch.testing.assert_close(scale[:, None] * (weight + update), whole)


@pytest.mark.parametrize('path', ['folded', 'factored'])
@pytest.mark.parametrize(
    'build',
    [lambda: nn.Linear(6, 8), lambda: nn.Conv2d(6, 8, 3)],
    ids=['linear', 'conv'],
)
def test_dora_takes_the_factors_where_the_layer_does(build, path, monkeypatch):
    layer = adapt(build(), dict(type='DoRA', rank=2), path=path)

    def refuse(*_):
        raise AssertionError('the sum was built')

    monkeypatch.setattr(DoRA, 'adapted_weight', refuse)
    monkeypatch.setattr(DoRA, 'delta_weight', refuse)
    shape = (3, 6) if layer.weight.dim() == 2 else (2, 6, 5, 5)
    layer(torch.randn(shape)).sum().backward()


def test_a_channel_of_zeros_stays_finite():
    layer = nn.Linear(4, 3)
    nn.init.zeros_(layer.weight)
    adapt(layer, dict(type='DoRA', rank=2))
    output = layer(torch.randn(5, 4))
    output.sum().backward()
    gradients = [p.grad for p in layer.adapter.parameters()]
    assert output.isfinite().all()
    assert all(gradient.isfinite().all() for gradient in gradients)


def test_dora_by_channel_of_a_transposed_convolution():
    layer = nn.ConvTranspose2d(6, 8, 3, groups=2).double()
    adapt(layer, dict(type='DoRA', rank=2))
    kernels = layer.weight.view(2, 3, 4, 9)
    expected = torch.stack(
        [kernels[i // 4, :, i % 4].norm() for i in range(8)]
    )
    torch.testing.assert_close(layer.adapter.magnitude.data, expected.data)


@pytest.mark.parametrize('groups', [1, 2])
def test_dora_over_loralibs_form_is_its_weight_by_direction(groups):
    stock = loralib_conv(groups=groups).double()
    nn.init.normal_(stock.lora_A)
    nn.init.normal_(stock.lora_B)
    frozen = stock.conv.weight
    product = (stock.lora_B @ stock.lora_A).view_as(frozen)
    whole = frozen + ALPHA / RANK * product
    direction = whole / whole.flatten(1).norm(dim=1)[:, None, None, None]

    layer = copy.deepcopy(stock.conv)
    settings = dict(type='DoRA', rank=RANK, alpha=ALPHA, form='loralib')
    adapter = adapt(layer, settings).adapter
    assert torch.equal(adapter.magnitude, channel_norms(frozen, adapter.view))
    nn.init.normal_(adapter.magnitude)
    with torch.no_grad():
        adapter.down.copy_(stock.lora_A)
        adapter.up.copy_(stock.lora_B)
    expected = adapter.magnitude[:, None, None, None] * direction
    torch.testing.assert_close(
        adapter.adapted_weight(frozen), expected, **EXACT
    )


# Every convolution and linear layer of ConvNeXt-V2-L; the published 12.94,
# 25.89 and 51.78 M of LoRA are these.
COUNTS = {
    'loralib 8': (dict(type='LoRA', rank=8, form='loralib'), 12_946_080),
    'loralib 16': (dict(type='LoRA', rank=16, form='loralib'), 25_892_160),
    'loralib 32': (dict(type='LoRA', rank=32, form='loralib'), 51_784_320),
    'spatial 8': (dict(type='LoRA', rank=8), 2_462_880),
    'LoRA-XS 16': (dict(type='LoRAXS', rank=16), 112 * 16**2),
}


@pytest.fixture(scope='module')
def large():
    import timm

    with torch.device('meta'):
        return timm.create_model('convnextv2_large', num_classes=0)


@pytest.mark.parametrize(('settings', 'expected'), COUNTS.values(), ids=COUNTS)
def test_golden_counts(large, settings, expected):
    model = copy.deepcopy(large)
    report = inject(model, settings)
    assert len(report.adapted) == 112
    trained = [p.numel() for p in model.parameters() if p.requires_grad]
    assert sum(trained) == expected
