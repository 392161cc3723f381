"""Nested ranks: the formulas, written again, and the prefixes."""

import math
import re
from pathlib import Path

import pytest
import torch
from method_cases import adapt, randomise
from test_lower_ranks import LAYERS, stored
from torch import nn

from mmflora.adapters import inject
from mmflora.adapters.ranked import Prefixes

EXACT = dict(rtol=1e-10, atol=1e-12)


def product(up, down):
    return (up @ down.flatten(1)).view(len(up), *down.shape[1:])


def tucker(core, factors):
    for mode, factor in enumerate(factors):
        core = torch.tensordot(factor, core.movedim(mode, 0), 1)
        core = core.movedim(0, mode)
    return core


@pytest.mark.parametrize('layer', LAYERS.values(), ids=LAYERS)
@pytest.mark.parametrize('rslora', [True, False])
@pytest.mark.parametrize('ranks', [None, [2, 3, 5]])
def test_matryoshka_lora_is_the_sum_of_its_prefixes(layer, rslora, ranks):
    settings = dict(
        type='MatryoshkaLoRA', rank=5, alpha=3.0, rslora=rslora, ranks=ranks
    )
    method, tensors, own, delta = stored(layer, settings)
    up, down = tensors['up'], tensors['down']
    scales = {
        r: 3.0 / (math.sqrt(r) if rslora else r) for r in ranks or [1, 2, 4, 5]
    }
    total = sum(s * product(up[:, :r], down[:r]) for r, s in scales.items())
    torch.testing.assert_close(delta, total, **EXACT)
    # The diagonal of P, as the paper's algorithm fills it from the last on.
    diagonal = [
        sum(s for r, s in scales.items() if r >= i + 1) for i in range(5)
    ]
    p = torch.tensor(diagonal, dtype=up.dtype)[: up.shape[1]].diag()
    torch.testing.assert_close(delta, product(up @ p, down), **EXACT)
    for rank in range(1, 6):
        plain, weighted = (
            Prefixes(method, tensors, dict(own, prefixes=kind))
            for kind in ('plain', 'weighted')
        )
        scale = 3.0 / (math.sqrt(rank) if rslora else rank)
        part = product(up[:, :rank], down[:rank])
        assert plain.method.__name__ == 'LoRA'
        for made, expected in (
            (plain, scale * part),
            (weighted, product((up @ p)[:, :rank], down[:rank])),
        ):
            update = made.method.stored_update(
                made.tensors(rank), made.settings(rank)
            )
            torch.testing.assert_close(
                update.dense().view(delta.shape), expected, **EXACT
            )


@pytest.mark.parametrize('layer', LAYERS.values(), ids=LAYERS)
def test_matryoshka_flora_is_the_mean_of_its_prefixes(layer):
    settings = dict(type='MatryoshkaFLoRA', rank=5, scale=0.5)
    method, tensors, own, delta = stored(layer, settings)
    core = tensors['core']
    factors = [tensors[f'factors.{i}'] for i in range(core.dim())]
    parts = [
        tucker(
            0.5 * core[:r, :r],
            [f[:, :r] for f in factors[:2]] + factors[2:],
        )
        for r in (1, 2, 4, 5)
    ]
    torch.testing.assert_close(delta, sum(parts) / 4, **EXACT)
    prefixes = Prefixes(method, tensors, own)
    whole = prefixes.method.stored_update(
        prefixes.tensors(5), prefixes.settings(5)
    )
    assert prefixes.method.__name__ == 'FLoRA'
    torch.testing.assert_close(whole.dense(), delta, **EXACT)
    for rank in (1, 2, 3, 4):
        weights = torch.zeros(5, 5, dtype=core.dtype)
        for r in (1, 2, 4, 5):
            weights[:r, :r] += 1 / 4
        weights[rank:], weights[:, rank:] = 0, 0
        weights = weights[: core.shape[0], : core.shape[1]]
        weights = weights.view(*weights.shape, *[1] * (core.dim() - 2))
        found = prefixes.method.stored_update(
            prefixes.tensors(rank), prefixes.settings(rank)
        )
        expected = tucker(0.5 * weights * core, factors)
        torch.testing.assert_close(found.dense(), expected, **EXACT)


@pytest.mark.parametrize('layer', LAYERS.values(), ids=LAYERS)
def test_sampled_ranks_are_prefixes(layer):
    settings = dict(type='DyLoRA', rank=5, alpha=3.0)
    adapter = randomise(adapt(layer().double(), settings)).adapter
    up, down = adapter.up, adapter.down
    assert adapter.sampled_ranks == (1, 2, 3, 4, 5)
    for rank in (5, 3, 1, None):
        adapter.prefix = rank
        b = rank or 5
        expected = 3.0 / b * product(up[:, :b], down[:b])
        torch.testing.assert_close(adapter.delta_weight(), expected, **EXACT)
    settings = dict(type='MatryoshkaFLoRA', rank=5, scale=0.5, sampled=True)
    adapter = randomise(adapt(layer().double(), settings)).adapter
    assert adapter.sampled_ranks == (1, 2, 4, 5)
    factors = list(adapter.factors)
    for rank in (4, 2, None):
        adapter.prefix = rank
        b = rank or 5
        expected = tucker(
            0.5 * adapter.core[:b, :b],
            [f[:, :b] for f in factors[:2]] + factors[2:],
        )
        torch.testing.assert_close(adapter.delta_weight(), expected, **EXACT)
        adapter.zero_grad()
        adapter.delta_weight().square().sum().backward()
        assert not adapter.core.grad[b:].any()
        assert adapter.core.grad[:b, :b].all()


@pytest.mark.parametrize('layer', LAYERS.values(), ids=LAYERS)
@pytest.mark.parametrize(
    'settings',
    [
        dict(type='DyLoRA', rank=4, ranks=[0, 1, 4]),
        dict(type='DyLoRA', rank=4, ranks=[0, 1, 4], scale=0.7),
        dict(type='MatryoshkaFLoRA', rank=4, ranks=[0, 1, 4], sampled=True),
    ],
)
def test_a_rank_of_0_is_the_frozen_layer(layer, settings):
    model = adapt(layer().double(), dict(settings, per_layer=True))
    adapter = randomise(model).adapter
    assert adapter.sampled_ranks == (0, 1, 4)
    assert adapter.per_layer
    adapter.prefix = 0
    assert not adapter.delta_weight().any()
    adapter.delta_weight().sum().backward()
    for parameter in adapter.parameters():
        assert parameter.grad is not None
        assert not parameter.grad.any()


@pytest.mark.parametrize('layer', LAYERS.values(), ids=LAYERS)
def test_one_scale_for_all_ranks(layer):
    """The factor of NOAH's LoRA does not depend on the rank."""
    settings = dict(type='DyLoRA', rank=5, scale=0.7)
    method, tensors, own, delta = stored(layer, settings)
    up, down = tensors['up'], tensors['down']
    torch.testing.assert_close(delta, 0.7 * product(up, down), **EXACT)
    assert not method.scaled_by_rank(own)
    prefixes = Prefixes(method, tensors, own)
    for rank in (1, 3, 5):
        found = prefixes.method.stored_update(
            prefixes.tensors(rank), prefixes.settings(rank)
        )
        expected = 0.7 * product(up[:, :rank], down[:rank])
        torch.testing.assert_close(
            found.dense().view(delta.shape), expected, **EXACT
        )


@pytest.mark.parametrize(
    'kind', ['MatryoshkaLoRA', 'DyLoRA', 'MatryoshkaFLoRA']
)
def test_bad_ranks_are_refused(kind):
    for ranks in ([1, 2], [0, 4], [1, 8], [], 4, ['4'], [True, 4], '4'):
        with pytest.raises(
            ValueError, match=r'integers from 1 to the rank, 4'
        ):
            inject(nn.Linear(4, 4), dict(type=kind, rank=4, ranks=ranks))
    for rank in (0, 2.0, [4, 4]):
        with pytest.raises(ValueError, match='integer of at least 1'):
            inject(nn.Linear(4, 4), dict(type=kind, rank=rank))


def test_other_bad_settings():
    with pytest.raises(ValueError, match='`prefixes` is one of plain'):
        inject(nn.Linear(4, 4), dict(type='MatryoshkaLoRA', prefixes='all'))
    with pytest.raises(TypeError, match='`sampled` is True or False'):
        inject(nn.Linear(4, 4), dict(type='MatryoshkaFLoRA', sampled=1))
    with pytest.raises(ValueError, match='`start` is one of random, gradient'):
        inject(nn.Linear(4, 4), dict(type='MatryoshkaFLoRA', start='weight'))


def test_the_example_of_the_page_is_true():
    page = Path(__file__).parents[2] / 'docs/adapters.md'
    section = page.read_text(encoding='utf-8').split('## Nested ranks')[1]
    (code,) = re.findall(
        r'```python\n(.*?)```', section.split('\n## ')[0], re.S
    )
    exec(compile(code, page.name, 'exec'), {'__name__': page.name})
