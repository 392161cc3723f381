"""The competition of layers in SNELLA, from the paper's rules."""

import pytest
import torch
from torch import nn

from mmflora.adapters import adapted_layers, inject
from mmflora.engine.hooks.snella_hook import SNELLAHook, divided

from .toy import backbone_cfg, runner, write_base

SNELLA = dict(type='SNELLA', rank=4, sparsity=0.8)


@pytest.mark.parametrize(
    ('scores', 'budget', 'shares'),
    [
        # Of 40, a quarter and three quarters.
        (dict(a=1.0, b=3.0), 40.0, dict(a=0.1, b=0.6)),
        # b takes its 50, and the other 30 go to a.
        (dict(a=1.0, b=3.0), 80.0, dict(a=0.3, b=1.0)),
        (dict(a=0.0, b=3.0), 80.0, dict(a=0.3, b=1.0)),
        (dict(a=0.0, b=0.0), 75.0, dict(a=0.5, b=0.5)),
        (dict(a=1.0, b=3.0), 999.0, dict(a=1.0, b=1.0)),
    ],
)
def test_a_budget_is_divided_in_proportion_up_to_the_sizes(
    scores, budget, shares
):
    assert divided(scores, dict(a=100, b=50), budget) == pytest.approx(shares)


def test_budget_falls_as_a_cube_of_the_time_left():
    hook = SNELLAHook(first=0.2, warmup=0.2, final=0.3)
    net = nn.Sequential(nn.Linear(5, 20))
    inject(net, SNELLA)
    hook.adapters, hook.steps = {'0': net[0].adapter}, 100
    for step, left in ((10, 1.0), (20, 1.0), (45, 0.5), (70, 0), (90, 0)):
        hook.step = step
        # From 0.8 to 0.2 of 100 entries.
        assert hook.budget() == pytest.approx(20 + 60 * left**3)


def test_importance_is_smoothed_sensitivity_times_uncertainty():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(5, 6), nn.Linear(6, 4)).double()
    inject(net, SNELLA)
    hook = SNELLAHook(beta=0.6)
    hook.adapters = {name: net[int(name)].adapter for name in '01'}
    expected = dict.fromkeys('01', 0.0)
    factors = [
        (name, factor)
        for name, adapter in hook.adapters.items()
        for factor in (adapter.left, adapter.right)
    ]
    for name, factor in factors:
        mean = distance = 0
        for gradient in torch.randn(3, *factor.shape, dtype=torch.float64):
            sensitivity = (factor.detach() * gradient).abs()
            mean = 0.6 * mean + 0.4 * sensitivity
            distance = 0.6 * distance + 0.4 * (sensitivity - mean).abs()
            side = 'left' if factor is net[int(name)].adapter.left else 'right'
            vars(hook).setdefault('seen', {}).setdefault(
                (name, side), []
            ).append(gradient)
        expected[name] += float((mean * distance).mean())
    for step in range(3):
        for (name, side), gradients in hook.seen.items():
            getattr(hook.adapters[name], side).grad = gradients[step]
        hook.before_step()
    assert hook._scores() == pytest.approx(expected, rel=1e-12)


def snella_runner(tmp_path, name, **kwargs):
    base = tmp_path / 'base.pth'
    if not base.exists():
        write_base(base)
    config = backbone_cfg(base)
    config['adapter'], config['targets'] = SNELLA, r'.*\.fc[12]'
    return runner(
        tmp_path / name,
        config,
        epochs=4,
        custom_hooks=[
            dict(type='mmflora.SNELLAHook'),
            dict(type='mmflora.IterationSeedHook'),
        ],
        **kwargs,
    )


def test_runner_meets_the_budget_and_resumes_exactly(tmp_path):
    whole = snella_runner(tmp_path, 'whole')
    whole.train()
    layers = adapted_layers(whole.model)
    sizes = [layer.weight.numel() for layer in layers.values()]
    kept = [float(1 - layer.adapter.zeros) for layer in layers.values()]
    total = sum(size * one for size, one in zip(sizes, kept, strict=True))
    assert total == pytest.approx(0.2 * sum(sizes), rel=1e-4)
    assert len({round(one, 3) for one in kept}) > 1, 'they compete'
    for layer, share in zip(layers.values(), kept, strict=True):
        delta = layer.adapter.delta_weight()
        # A step of the share is one entry.
        survive = int(delta.count_nonzero())
        assert abs(survive - share * delta.numel()) <= 2

    half = tmp_path / 'whole' / 'epoch_2.pth'
    second = snella_runner(
        tmp_path, 'second', load_from=str(half), resume=True
    )
    second.train()
    assert second.iter == whole.iter
    for key, value in whole.model.state_dict().items():
        assert torch.equal(second.model.state_dict()[key], value), key


def test_what_cannot_be(tmp_path):
    base = write_base(tmp_path / 'base.pth')
    built = runner(
        tmp_path / 'run',
        backbone_cfg(base),
        custom_hooks=[dict(type='mmflora.SNELLAHook')],
    )
    with pytest.raises(ValueError, match='found no layer adapted by SNELLA'):
        built.train()
    with pytest.raises(ValueError, match=r'warmup=0.5 and final=0.5 leave no'):
        SNELLAHook(warmup=0.5, final=0.5)
    with pytest.raises(ValueError, match='first=1'):
        SNELLAHook(first=1)
