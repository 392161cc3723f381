"""The rank of each iteration: equal for all, repeated, gone at tests."""

from types import SimpleNamespace

import pytest
import torch
from mmengine.hooks import Hook
from torch import nn

from mmflora.adapters import adapted_layers, inject
from mmflora.engine import SampledRankHook

from .toy import backbone_cfg, runner, write_base

DYLORA = dict(type='DyLoRA', rank=4)
SUPERNET = dict(DYLORA, ranks=[0, 1, 2, 4], per_layer=True)
NESTED = dict(type='MatryoshkaFLoRA', rank=4, sampled=True)


class Watch(Hook):
    """Notes the ranks that count while the model computes."""

    priority = 'LOW'

    def __init__(self, apart=False):
        self.drawn, self.tested, self.apart = [], [], apart

    def ranks(self, runner):
        layers = adapted_layers(runner.model).values()
        return {layer.adapter.prefix for layer in layers}

    def all_ranks(self, runner):
        layers = adapted_layers(runner.model).values()
        return tuple(layer.adapter.prefix for layer in layers)

    def before_train_iter(self, runner, *_, **__):
        ranks = self.all_ranks(runner)
        self.drawn.append(ranks if self.apart else ranks[0])
        assert self.apart or len({*ranks}) == 1

    def after_train_iter(self, runner, *_, **__):
        self.tested.append(self.ranks(runner))


def build(tmp_path, name, adapter, watch, epochs=6, **kwargs):
    base = tmp_path / 'base.pth'
    if not base.exists():
        write_base(base)
    config = {**backbone_cfg(base), 'adapter': adapter}
    built = runner(
        tmp_path / name,
        config,
        epochs=epochs,
        custom_hooks=[
            dict(type='mmflora.SampledRankHook'),
            dict(type='mmflora.IterationSeedHook'),
        ],
        **kwargs,
    )
    built.register_hook(watch)
    return built


@pytest.mark.parametrize(
    'adapter',
    [DYLORA, NESTED, SUPERNET],
    ids=['dylora', 'flora', 'supernet'],
)
def test_a_resumed_run_draws_the_same_ranks(tmp_path, adapter):
    apart = adapter is SUPERNET
    first, second = Watch(apart), Watch(apart)
    whole = build(tmp_path, 'whole', adapter, first)
    whole.train()
    allowed = {1, 2, 3, 4} if adapter is DYLORA else {1, 2, 4}
    if apart:
        assert {r for ranks in first.drawn for r in ranks} == {0, 1, 2, 4}
        assert max(len({*ranks}) for ranks in first.drawn) > 1
    else:
        assert set(first.drawn) <= allowed
    assert len(set(first.drawn)) > 1
    assert all(ranks == {None} for ranks in first.tested)
    again = build(
        tmp_path,
        'again',
        adapter,
        second,
        resume=True,
        load_from=str(tmp_path / 'whole/epoch_3.pth'),
    )
    again.train()
    assert second.drawn == first.drawn[len(first.drawn) // 2 :]
    theirs = whole.model.state_dict()
    for key, value in again.model.state_dict().items():
        assert torch.equal(value, theirs[key]), key


def test_processes_of_other_seeds_draw_the_same(monkeypatch):
    """`diff_rank_seed` gives each process its own; the first one's counts."""
    monkeypatch.setattr(
        'mmflora.engine.hooks.sampled_rank_hook.broadcast',
        lambda seed: seed.fill_(5),
    )
    drawn = []
    for seed in (5, 6):
        model = nn.Sequential(nn.Linear(8, 8), nn.Conv2d(8, 8, 3))
        inject(model, dict(type='DyLoRA', rank=8))
        run = SimpleNamespace(model=model, seed=seed, iter=0)
        hook = SampledRankHook()
        hook.before_train(run)
        ranks = []
        for run.iter in range(20):
            hook.before_train_iter(run)
            first, second = (layer.adapter.prefix for layer in model)
            assert first == second
            ranks.append(first)
        drawn.append(ranks)
    assert drawn[0] == drawn[1]
    assert len(set(drawn[0])) > 4


def test_layers_of_a_supernet_draw_for_themselves():
    model = nn.Sequential(*[nn.Linear(8, 8) for _ in range(4)])
    model.add_module('mlp', nn.Sequential(nn.Linear(8, 8)))
    space = dict(rank=4, ranks=[0, 2, 4], per_layer=True)
    targets = {
        '[01]': dict(type='DyLoRA', rank=8),
        '[23]': dict(space, type='DyLoRA'),
    }
    inject(model, dict(type='DyLoRA'), targets)
    inject(
        model,
        dict(type='Pfeiffer', width=3, widths=[0, 3], places='mlp.0'),
    )
    run = SimpleNamespace(model=model, seed=0, iter=0)
    hook = SampledRankHook()
    hook.before_train(run)
    drawn = []
    for run.iter in range(60):
        hook.before_train_iter(run)
        parts = (*model[:4], model.mlp[0])
        drawn.append([part.adapter.prefix for part in parts])
        hook.after_train_iter(run)
        assert all(part.adapter.prefix is None for part in parts)
    first, second, *own = map(list, zip(*drawn, strict=True))
    assert first == second  # those of equal ranks share one
    assert [set(one) for one in own] == [{0, 2, 4}, {0, 2, 4}, {0, 3}]
    assert own[0] != own[1]
    # A shared rank is not drawn otherwise where others draw their own.
    alone = nn.Sequential(nn.Linear(8, 8))
    inject(alone, dict(type='DyLoRA', rank=8))
    run.model = alone
    hook.before_train(run)
    again = []
    for run.iter in range(60):
        hook.before_train_iter(run)
        again.append(alone[0].adapter.prefix)
    assert again == first


def test_nothing_happens_without_sampled_ranks():
    run = SimpleNamespace(model=nn.Linear(2, 2), seed=0, iter=0)
    hook = SampledRankHook()
    hook.before_train(run)
    hook.before_train_iter(run)
    hook.after_train_iter(run)
