"""Parameters that layers share, and the methods that have them."""

import copy

import pytest
import timm
import torch
from torch import nn

import mmflora
from mmflora.adapters import (
    adapted_modules,
    inject,
    merge,
    sharing_layers,
    unload,
)
from mmflora.engine.strategies.fsdp_units import check_can_shard

EXACT = dict(rtol=1e-12, atol=1e-12)
METHODS = {
    'FacT': dict(type='FacT', rank=2, scale=0.5),
    'FacT, tk': dict(type='FacT', rank=2, form='tk', scale=0.5),
    'LoTR': dict(type='LoTR', rank=2, scale=0.5),
    'SuperLoRA': dict(type='SuperLoRA', rank=2, groups=2, scale=0.5),
}
FACTORS = pytest.mark.parametrize('kind', ['FacT', 'FacT, tk', 'LoTR'])


class Block(nn.Module):
    """The matrices of a transformer's block of width 6."""

    def __init__(self):
        super().__init__()
        self.qkv, self.proj = nn.Linear(6, 18), nn.Linear(6, 6)
        self.fc1, self.fc2 = nn.Linear(6, 24), nn.Linear(24, 6)

    def forward(self, x):
        q, k, v = self.qkv(x).chunk(3, -1)
        x = x + self.proj(q * k * v)
        return x + self.fc2(torch.tanh(self.fc1(x)))


def network(kind='FacT', spread=0.5, **options):
    torch.manual_seed(0)
    net = nn.Sequential(Block(), Block()).double()
    inject(net, METHODS[kind] | options)
    with torch.no_grad():
        for parameter in net.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter), alpha=spread)
    return net


@pytest.fixture(params=METHODS)
def kind(request):
    return request.param


def tensorized(net):
    """Return all updates as the paper's tensor, (12 L, d, d)."""
    pieces = []
    for layer in adapted_modules(net).values():
        delta = layer.delta_weight()
        for rows in delta.split(6, 0):
            pieces += rows.split(6, 1)
    return torch.stack(pieces).detach()


@pytest.mark.parametrize('form', ['tt', 'tk'])
def test_fact_is_one_tensor_of_low_rank(form):
    net = network('FacT', form=form)
    layers = list(adapted_modules(net).values())
    shared = layers[0].adapter.shared
    left, right = shared.left['6'], shared.right['6']
    own = torch.cat([one.adapter.core.flatten(0, 2) for one in layers])
    assert len(own) == 24
    if form == 'tt':  # s · V ×2 Σ ×3 U
        expected = torch.einsum('nab,ia,jb->nij', own, left, right)
    else:  # s · C ×1 P ×2 V ×3 U
        expected = torch.einsum(
            'cab,nc,ia,jb->nij', shared.core, own, left, right
        )
    torch.testing.assert_close(tensorized(net), 0.5 * expected, **EXACT)


def test_lotr_is_a_core_between_factors_of_all_layers():
    net = network('LoTR')
    shared = net[0].qkv.adapter.shared
    for layer in adapted_modules(net).values():
        out, inputs = layer.weight.shape
        a, b = shared.left[str(out)], shared.right[str(inputs)]
        core = layer.adapter.core[0, 0, 0]
        torch.testing.assert_close(
            layer.delta_weight(), 0.5 * a @ core @ b.T, **EXACT
        )


@FACTORS
def test_positions_of_a_kernel_are_pieces(kind):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 6, (2, 3)), nn.Conv2d(6, 6, 5, groups=6))
    inject(net.double(), METHODS[kind])
    for parameter in net.parameters():
        if parameter.requires_grad:
            nn.init.normal_(parameter)
    shared = net[0].adapter.shared
    for layer, cut in zip(net, (kind != 'LoTR', False), strict=True):
        adapter, delta = layer.adapter, layer.delta_weight()
        out, inputs = delta.shape[:2]
        sides = (3, 3) if cut else (out, inputs)
        assert adapter.sides == sides
        cores = adapter.core
        if 'tk' in kind:
            rows, columns = adapter.ranks
            mix = shared.core[:, :rows, :columns]
            cores = torch.tensordot(cores, mix, 1)
        a, b = shared.left[str(sides[0])], shared.right[str(sides[1])]
        height, width = delta.shape[2:]
        for y in range(height):
            for x in range(width):
                for row in range(out // sides[0]):
                    start = row * sides[0]
                    piece = delta[start : start + sides[0], :, y, x]
                    core = cores[row, 0, y * width + x]
                    torch.testing.assert_close(
                        piece, 0.5 * a @ core @ b.T, **EXACT
                    )


@pytest.mark.parametrize(
    ('form', 'count'),
    [
        # Section 3.3: 2 d r + 12 L r² and 2 d r + 12 L r + r³.
        ('tt', lambda d, r, n: 2 * d * r + 12 * n * r**2),
        ('tk', lambda d, r, n: 2 * d * r + 12 * n * r + r**3),
    ],
)
def test_fact_has_the_papers_parameters_on_vit_b(form, count):
    with torch.device('meta'):
        vit = timm.create_model('vit_base_patch16_224', num_classes=0)
        inject(
            vit,
            dict(type='FacT', rank=16, form=form),
            r'blocks\.\d+\.(attn\.(qkv|proj)|mlp\.fc[12])',
        )
    trained = sum(p.numel() for p in vit.parameters() if p.requires_grad)
    assert trained == count(768, 16, 12)


def test_shared_parameters_are_in_the_model_once(kind):
    net = network(kind)
    names = [n for n, p in net.named_parameters() if p.requires_grad]
    assert len(names) == len(set(names))
    holders = {n.split('.adapter.')[0] for n in names if '.shared.' in n}
    assert holders == {'0.qkv'}
    assert {n for n in net.state_dict() if '.shared.' in n} == {
        n for n in names if '.shared.' in n
    }
    assert sharing_layers(net) == list(adapted_modules(net))


def test_every_layer_moves_what_is_shared(kind):
    net, x = network(kind), torch.randn(4, 6, dtype=torch.float64)
    shared = net[0].qkv.adapter.shared
    net(x).sum().backward()
    whole = {n: p.grad.clone() for n, p in shared.named_parameters()}
    assert all(grad.any() for grad in whole.values())
    # Without the second block's weights the gradient is another.
    net.zero_grad()
    with mmflora.disabled(net[1]):
        net(x).sum().backward()
    assert not all(
        torch.equal(whole[n], p.grad) for n, p in shared.named_parameters()
    )


def test_copies_share_among_themselves(kind):
    net, x = network(kind), torch.randn(4, 6, dtype=torch.float64)
    before = net(x)
    twin = copy.deepcopy(net)
    with torch.no_grad():
        for parameter in twin[0].qkv.adapter.shared.parameters():
            parameter.mul_(2)
    assert torch.equal(net(x), before)
    assert twin[1].fc2.adapter.shared is twin[0].qkv.adapter.shared
    assert not torch.equal(twin[1](x), net[1](x))
    half = copy.deepcopy(net).float()
    shared = half[1].fc2.adapter.shared
    assert {p.dtype for p in shared.parameters()} == {torch.float32}
    torch.testing.assert_close(
        half(x.float()).double(), before, atol=1e-3, rtol=1e-3
    )


def test_merge_and_unload_work_layer_by_layer(kind):
    net, x = network(kind), torch.randn(4, 6, dtype=torch.float64)
    frozen = network(kind)
    adapted = net(x)
    way_back = merge(net)
    assert not sharing_layers(net)
    torch.testing.assert_close(net(x), adapted, **EXACT)
    way_back.unmerge()
    assert torch.equal(net(x), adapted)
    mmflora.adapters.merge_for_good(net)
    torch.testing.assert_close(net(x), adapted, **EXACT)
    unload(frozen)
    assert not any('adapter' in name for name in frozen.state_dict())


def test_a_file_holds_them_once_and_brings_them_back(kind, tmp_path):
    net, x = network(kind), torch.randn(4, 6, dtype=torch.float64)
    path = mmflora.save_adapter(net, tmp_path / 'one.safetensors')
    stock = unload(network(kind))
    loaded = mmflora.load_adapter(stock, path)
    assert torch.equal(loaded(x), net(x))
    fewer = unload(network(kind))
    inject(fewer, METHODS[kind], r'1\..*')
    with pytest.raises(ValueError, match='was trained with'):
        mmflora.load_adapter(fewer, path)


def test_layers_of_other_settings_share_apart(kind):
    torch.manual_seed(0)
    net = nn.Sequential(Block(), Block())
    inject(
        net,
        METHODS[kind],
        {r'0\..*': {}, r'1\..*': dict(rank=3)},
    )
    first, second = net[0].qkv.adapter.shared, net[1].qkv.adapter.shared
    assert first is net[0].fc2.adapter.shared is not second
    sizes = [[p.shape for p in one.parameters()] for one in (first, second)]
    assert sizes[0] != sizes[1]


def test_a_wrong_setting_names_the_layer(kind):
    with pytest.raises(ValueError, match=r"Layer '0.qkv'.*rank=0"):
        network(kind, rank=0)
    with pytest.raises(TypeError, match="no setting 'shared'"):
        network(kind, shared=None)


def test_fsdp_is_refused(kind):
    with pytest.raises(ValueError, match=r"'0.qkv' and 7 more layers share"):
        check_can_shard(network(kind))
