"""MoSA: a bottleneck of which a random part trains at a time."""

import copy

import pytest
import timm
import torch
import torch.nn.functional as F
from method_cases import randomise
from torch import nn
from torch.utils.checkpoint import checkpoint

from mmflora.adapters import inject, merge

EXACT = dict(rtol=1e-10, atol=1e-12)
SETTINGS = dict(type='MoSA', width=6, scale=0.5, parts=3)


@pytest.fixture
def block():
    """An MLP of 5 channels with the adapter, every parameter random."""
    net = nn.ModuleDict(dict(mlp=timm.layers.Mlp(5, 7).double()))
    inject(net, SETTINGS)
    return randomise(net)['mlp']


def stock_output(block, inputs):
    hidden = F.gelu(inputs @ block.fc1.weight.T + block.fc1.bias)
    return hidden @ block.fc2.weight.T + block.fc2.bias


def with_up(block, inputs, up):
    """Return MLP(x) + s (act(x Dᵀ + d) Uᵀ + u) for a given U."""
    adapter = block.adapter
    hidden = F.gelu(inputs @ adapter.down.T + adapter.down_bias)
    update = hidden @ up.T + adapter.up_bias
    return stock_output(block, inputs) + 0.5 * update


def of_parts(block, inputs):
    """Return the output with each part alone."""
    adapter = block.adapter
    part = adapter.part_of()
    ups = [
        torch.where(part == i, adapter.up, torch.zeros_like(adapter.up))
        for i in range(3)
    ]
    # Together they are U, and no entry is in two of them.
    assert torch.equal(sum(ups), adapter.up)
    return [with_up(block, inputs, up) for up in ups]


def test_a_test_has_the_mean_of_all_parts(block):
    inputs = torch.randn(2, 4, 5, dtype=torch.float64)
    output = block.eval()(inputs)
    expected = with_up(block, inputs, block.adapter.up / 3)
    torch.testing.assert_close(output, expected, **EXACT)
    mean = torch.stack(of_parts(block, inputs)).mean(0)
    torch.testing.assert_close(output, mean, **EXACT)


def test_training_has_one_part_at_a_time(block):
    inputs = torch.randn(2, 4, 5, dtype=torch.float64)
    alone = of_parts(block.train(), inputs)
    seen = set()
    for _ in range(40):
        block.zero_grad()
        output = block(inputs)
        (index,) = (i for i in range(3) if torch.allclose(output, alone[i]))
        torch.testing.assert_close(output, alone[index], **EXACT)
        output.square().sum().backward()
        moved = block.adapter.up.grad != 0
        assert torch.equal(moved, block.adapter.part_of() == index)
        seen.add(index)
    assert seen == {0, 1, 2}


def test_parts_are_of_one_size_and_drawn_alike_everywhere(block):
    part = block.adapter.part_of()
    assert part.shape == block.adapter.up.shape
    assert torch.bincount(part.flatten()).tolist() == [10, 10, 10]
    # Not by rows or columns.
    assert all(len(row.unique()) > 1 for row in part)
    torch.manual_seed(5)
    other = nn.ModuleDict(dict(mlp=timm.layers.Mlp(5, 7)))
    inject(other, SETTINGS)
    assert torch.equal(other['mlp'].adapter.part_of(), part)
    assert torch.equal(copy.deepcopy(block).adapter.part_of(), part)
    assert not list(block.adapter.buffers())


def test_one_part_is_adaptformer(block):
    inputs = torch.randn(2, 4, 5, dtype=torch.float64)
    outputs = []
    for settings in (
        dict(SETTINGS, parts=1),
        dict(type='AdaptFormer', width=6, activation='gelu', scale=0.5),
    ):
        net = nn.ModuleDict(dict(mlp=timm.layers.Mlp(5, 7).double()))
        inject(net, settings)
        net['mlp'].load_state_dict(block.state_dict())
        outputs.append(net['mlp'].train()(inputs))
    assert torch.equal(*outputs)


def test_starts_as_the_identity_and_has_adaptformers_counts():
    net = timm.create_model(
        'vit_tiny_patch16_224', img_size=32, embed_dim=12, num_heads=2
    )
    inputs = torch.randn(1, 3, 32, 32)
    expected = net.eval()(inputs)
    report = inject(net, dict(type='MoSA', width=4))
    assert report.adapted == [f'blocks.{i}.mlp' for i in range(12)]
    assert torch.equal(net(inputs), expected)
    count = sum(p.numel() for p in net.parameters() if p.requires_grad)
    assert count == 12 * (2 * 12 * 4 + 12 + 4)
    with pytest.raises(ValueError, match='MoSA cannot be merged.*activation'):
        merge(net)


def test_recomputed_blocks_draw_the_same_part(block):
    inputs = torch.randn(2, 4, 5, dtype=torch.float64)
    found = []
    for call in (
        block,
        lambda x: checkpoint(block, x, use_reentrant=False),
    ):
        for seed in range(8):
            block.zero_grad()
            torch.manual_seed(seed)
            call(inputs).square().sum().backward()
            found.append(block.adapter.up.grad.clone())
    for plain, recomputed in zip(found[:8], found[8:], strict=True):
        torch.testing.assert_close(plain, recomputed, **EXACT)


@pytest.mark.parametrize(
    ('parts', 'text'), [(0, 'parts=0'), (31, 'parts=31, but U has 30 entries')]
)
def test_bad_numbers_of_parts(parts, text):
    net = nn.ModuleDict(dict(mlp=timm.layers.Mlp(5, 7)))
    with pytest.raises(ValueError, match=text) as caught:
        inject(net, dict(SETTINGS, parts=parts))
    assert "'mlp' (Mlp" in str(caught.value)


def test_under_autocast_small_updates_are_kept(block):
    block.float()
    inputs = torch.randn(2, 4, 5)
    with torch.autocast('cpu', torch.bfloat16):
        block.train()(inputs).float().sum().backward()
    gradient = block.adapter.up.grad
    assert gradient.dtype == block.adapter.up.dtype == torch.float32
    assert gradient.any()
