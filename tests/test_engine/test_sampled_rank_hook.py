"""The rank of each iteration: equal for all, repeated, gone at tests."""

import pytest
import torch
from mmengine.hooks import Hook

from mmflora.adapters import adapted_layers

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


def test_nothing_happens_without_sampled_ranks(tmp_path):
    from mmflora.engine import SampledRankHook

    class Run:
        model = torch.nn.Linear(2, 2)
        seed, iter = 0, 0

    hook = SampledRankHook()
    hook.before_train(Run)
    hook.before_train_iter(Run)
    hook.after_train_iter(Run)
