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
NESTED = dict(type='MatryoshkaFLoRA', rank=4, sampled=True)


class Watch(Hook):
    """Notes the ranks that count while the model computes."""

    priority = 'LOW'

    def __init__(self):
        self.drawn, self.tested = [], []

    def ranks(self, runner):
        layers = adapted_layers(runner.model).values()
        return {layer.adapter.prefix for layer in layers}

    def before_train_iter(self, runner, *_, **__):
        (rank,) = self.ranks(runner)
        self.drawn.append(rank)

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


@pytest.mark.parametrize('adapter', [DYLORA, NESTED], ids=['dylora', 'flora'])
def test_a_resumed_run_draws_the_same_ranks(tmp_path, adapter):
    first, second = Watch(), Watch()
    whole = build(tmp_path, 'whole', adapter, first)
    whole.train()
    allowed = {1, 2, 3, 4} if adapter is DYLORA else {1, 2, 4}
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


def test_nothing_happens_without_sampled_ranks():
    run = SimpleNamespace(model=nn.Linear(2, 2), seed=0, iter=0)
    hook = SampledRankHook()
    hook.before_train(run)
    hook.before_train_iter(run)
    hook.after_train_iter(run)
