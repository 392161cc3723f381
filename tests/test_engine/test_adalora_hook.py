import copy

import pytest
import torch
from torch import nn

from mmflora.adapters import adapted_layers
from mmflora.engine.hooks.adalora_hook import _groups, _Schedule

from .toy import backbone_cfg, runner, write_base

peft = pytest.importorskip('peft')

ADALORA = dict(type='HFPEFT', peft_type='ADALORA', init_r=4, target_r=2)


def small(**options):
    """Return a net adapted by us, and one by peft, with equal values."""
    from mmflora.adapters import inject

    torch.manual_seed(0)
    ours = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4)).double()
    theirs = copy.deepcopy(ours)
    inject(ours, ADALORA | options)
    settings = peft.AdaLoraConfig(
        target_modules=['0', '2'],
        total_step=12,
        init_r=4,
        target_r=2,
        **options,
    )
    theirs = peft.get_peft_model(theirs, settings)
    with torch.no_grad():
        for index in (0, 2):
            other = theirs.base_model.model[index]
            for name in ('lora_A', 'lora_B', 'lora_E'):
                value = torch.randn_like(getattr(other, name)['default']) / 3
                getattr(other, name)['default'].copy_(value)
                getattr(ours[index].adapter.peft_layer, name)['default'].copy_(
                    value
                )
    return ours, theirs


def singular_values(net):
    return [
        layer.lora_E['default'].detach().clone()
        for layer in (
            item.adapter.peft_layer for item in adapted_layers(net).values()
        )
    ]


def test_schedule_equals_peft():
    options = dict(tinit=2, tfinal=3, deltaT=2, orth_reg_weight=0.0)
    ours, theirs = small(**options)
    (group,) = _groups(adapted_layers(ours))
    schedule = _Schedule(group, 12)
    inputs = torch.randn(5, 6, dtype=torch.float64)
    mine = torch.optim.SGD(
        [p for p in ours.parameters() if p.requires_grad], 1e-3
    )
    # Cast to float64, peft's constant of each layer would train there.
    other = torch.optim.SGD(
        [
            parameter
            for name, parameter in theirs.named_parameters()
            if parameter.requires_grad and 'ranknum' not in name
        ],
        1e-3,
    )
    zeros = []
    for step in range(12):
        for net, optimizer in ((ours, mine), (theirs, other)):
            optimizer.zero_grad()
            net(inputs).square().mean().backward()
            optimizer.step()
        schedule.allocate()
        theirs.base_model.update_and_allocate(step)
        values = singular_values(ours)
        for index, value in zip((0, 2), values, strict=True):
            expected = theirs.base_model.model[index].lora_E['default']
            torch.testing.assert_close(value, expected, rtol=1e-12, atol=0)
        zeros.append(sum(int((value == 0).sum()) for value in values))
    assert zeros[:3] == [0, 0, 0]
    assert zeros[9:] == [4, 4, 4]  # of eight ranks, four are the budget


def test_penalty_is_the_gradient_of_pefts_term():
    ours, _ = small(orth_reg_weight=0.3)
    (group,) = _groups(adapted_layers(ours))
    schedule = _Schedule(group, 12)
    factors = [
        (parameter, '.lora_B.' in name)
        for name, parameter in schedule.named.named_parameters()
        if 'lora_E' not in name
    ]
    total = sum(
        torch.linalg.norm(
            (p.T @ p if transposed else p @ p.T) - torch.eye(4).double()
        )
        for p, transposed in factors
    )
    expected = torch.autograd.grad(
        0.3 * total / len(factors), [p for p, _ in factors]
    )
    for parameter, _ in factors:
        parameter.grad = torch.zeros_like(parameter)
    schedule.add_penalty()
    for (parameter, _), gradient in zip(factors, expected, strict=True):
        torch.testing.assert_close(
            parameter.grad, gradient, rtol=1e-10, atol=1e-12
        )


def adalora_runner(tmp_path, name, epochs=4, **kwargs):
    base = tmp_path / 'base.pth'
    if not base.exists():
        write_base(base)
    config = backbone_cfg(base)
    config['adapter'] = ADALORA
    config['targets'] = r'.*\.fc[12]'
    return runner(
        tmp_path / name,
        config,
        epochs=epochs,
        custom_hooks=[
            dict(type='mmflora.AdaLoRAHook'),
            dict(type='mmflora.IterationSeedHook'),
        ],
        **kwargs,
    )


def ranks_left(built):
    return sum(
        int((value != 0).sum()) for value in singular_values(built.model)
    )


def test_runner_drops_ranks_and_resumes_exactly(tmp_path):
    whole = adalora_runner(tmp_path, 'whole')
    whole.train()
    layers = len(adapted_layers(whole.model))
    assert layers == 8
    assert ranks_left(whole) < layers * 4

    torch.save(
        torch.load(tmp_path / 'whole' / 'epoch_2.pth', weights_only=False),
        tmp_path / 'half.pth',
    )
    second = adalora_runner(
        tmp_path,
        'second',
        load_from=str(tmp_path / 'half.pth'),
        resume=True,
    )
    second.train()
    assert second.iter == whole.iter
    for key, value in whole.model.state_dict().items():
        assert torch.equal(second.model.state_dict()[key], value), key


def test_model_without_adalora_is_refused(tmp_path):
    base = write_base(tmp_path / 'base.pth')
    built = runner(
        tmp_path / 'run',
        backbone_cfg(base),
        custom_hooks=[dict(type='mmflora.AdaLoRAHook')],
    )
    with pytest.raises(ValueError, match='found no layer adapted by AdaLoRA'):
        built.train()


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(tinit=6, tfinal=6), 'leave no step of the 12'),
        (dict(target_r=4), 'is not below init_r=4'),
    ],
)
def test_schedules_that_cannot_be(options, message):
    from mmflora.adapters import inject

    net = nn.Sequential(nn.Linear(6, 8))
    inject(net, ADALORA | options)
    (group,) = _groups(adapted_layers(net))
    with pytest.raises(ValueError, match=message):
        _Schedule(group, 12)
