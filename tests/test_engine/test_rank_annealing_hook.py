"""Ranks that fall in stages: what is computed, resumed and refused."""

import pytest
import torch
from mmengine.hooks import EMAHook, Hook

from mmflora.adapter_files import apply_adapter
from mmflora.adapter_files.convert import from_checkpoint
from mmflora.adapter_files.reduce import reduce_ranks
from mmflora.adapters import adapted_layers
from mmflora.engine import RankAnnealingHook

from .toy import ToyModel, backbone_cfg, runner, write_base

LORA = dict(type='LoRA', rank=4)
FLORA = dict(type='FLoRA', rank=4)
LAYER = 'backbone.stages.3.blocks.0.mlp.fc1'
IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))


class Watch(Hook):
    """Notes ranks and moments before each iteration, behind all others."""

    priority = 'LOWEST'

    def __init__(self):
        self.ranks, self.known = [], []

    def before_train_iter(self, runner, *_, **__):
        layer = adapted_layers(runner.model)[LAYER]
        names = dict(layer.adapter.named_parameters())
        factor = names['up' if 'up' in names else 'factors.0']
        start = runner.iter == 0  # where LoRA's B is zero
        columns = factor.any(0).sum() if not start else factor.shape[1]
        self.ranks.append(int(columns))
        state = runner.optim_wrapper.optimizer.state
        ours = list(layer.adapter.parameters())
        self.known.append(all(one in state for one in ours))


def build(tmp_path, name, adapter, watch=None, hook=None, **kwargs):
    base = tmp_path / 'base.pth'
    if not base.exists():
        write_base(base)
    more = kwargs.pop('more', [])
    annealing = dict(type='mmflora.RankAnnealingHook', ranks=[3, 2])
    built = runner(
        tmp_path / name,
        {**backbone_cfg(base), 'adapter': adapter},
        epochs=kwargs.pop('epochs', 3),
        custom_hooks=[
            hook or annealing,
            dict(type='mmflora.IterationSeedHook'),
            *more,
        ],
        **kwargs,
    )
    if watch is not None:
        built.register_hook(watch)
    return built


def outputs(model):
    with torch.no_grad():
        return model.eval()(IMAGES)


@pytest.mark.parametrize('adapter', [LORA, FLORA], ids=['lora', 'flora'])
def test_stages_resume_exactly_and_are_truncated(tmp_path, adapter):
    watch = Watch()
    whole = build(tmp_path, 'whole', adapter, watch)
    whole.train()
    assert watch.ranks == [4] * 3 + [3] * 3 + [2] * 3
    # Moments start again where a stage begins.
    assert watch.known == [i not in (0, 3, 6) for i in range(9)]
    for epoch in (1, 2):  # right before a stage each
        again = build(
            tmp_path,
            f'again_{epoch}',
            adapter,
            resume=True,
            load_from=str(tmp_path / f'whole/epoch_{epoch}.pth'),
        )
        again.train()
        theirs = whole.model.state_dict()
        for key, value in again.model.state_dict().items():
            assert torch.equal(value, theirs[key]), key
    trained = from_checkpoint(tmp_path / 'whole/epoch_3.pth', {})
    small, rows = reduce_ranks(trained, prefix=True, rank=2)
    assert sum(r.parameters[1] for r in rows) < sum(
        r.parameters[0] for r in rows
    )
    for row in rows:
        assert row.error <= 1e-6 * row.norm
    method = small.backbone()['method']
    config = {
        **backbone_cfg(tmp_path / 'base.pth'),
        'adapter': method['adapter'],
    }
    model = apply_adapter(ToyModel(config), small)
    torch.testing.assert_close(
        outputs(model), outputs(whole.model), rtol=1e-4, atol=1e-5
    )


def test_averages_take_the_factors_over(tmp_path):
    built = build(
        tmp_path,
        'average',
        LORA,
        hook=dict(type='mmflora.RankAnnealingHook', ranks=[2], milestones=[8]),
        more=[dict(type='EMAHook', momentum=0.1)],
    )
    built.train()
    (average,) = (h for h in built.hooks if isinstance(h, EMAHook))
    ours, theirs = (
        adapted_layers(model)
        for model in (built.model, average.ema_model.module)
    )
    # After the last iteration, whose factors were the start of the average.
    for model in (ours, theirs):
        adapter = model[LAYER].adapter
        assert not adapter.up[:, 2:].any()
        assert adapter.up[:, :2].any()


def test_stages_begin_between_steps(tmp_path):
    built = build(
        tmp_path,
        'accumulated',
        LORA,
        hook=dict(type='mmflora.RankAnnealingHook', ranks=[2], milestones=[3]),
        optim_wrapper=dict(
            type='OptimWrapper',
            constructor='mmflora.PEFTOptimWrapperConstructor',
            optimizer=dict(type='AdamW', lr=1e-2),
            accumulative_counts=2,
        ),
    )
    (hook,) = (h for h in built.hooks if isinstance(h, RankAnnealingHook))
    built.optim_wrapper = built.build_optim_wrapper(built.optim_wrapper)
    hook.before_train(built)
    assert hook._stages == {4: 2}


def test_refusals(tmp_path):
    for ranks in ([], [4, 4], [2, 4], [0]):
        with pytest.raises(ValueError, match='that fall, such as'):
            RankAnnealingHook(ranks)
    for milestones in ([5], [5, 5], [9, 5], [0, 5]):
        with pytest.raises(ValueError, match='that rise, one for each'):
            RankAnnealingHook([4, 2], milestones)
    built = build(tmp_path, 'pissa', dict(type='PiSSA', rank=4))
    with pytest.raises(
        ValueError, match='LoRA, DoRA and FLoRA.* has PiSSA[.] Take'
    ):
        built.train()
    late = dict(type='mmflora.RankAnnealingHook', ranks=[2], milestones=[9])
    built = build(tmp_path, 'late', LORA, hook=late)
    with pytest.raises(ValueError, match='have no room for'):
        built.train()
