"""SaRA through the runner: its penalty, and what becomes effective."""

import pytest
import torch
from mmengine.hooks import EMAHook

from mmflora.adapters import adapted_layers
from mmflora.engine import SaRAHook

from .toy import backbone_cfg, runner, write_base

SARA = dict(type='SaRA', density=0.3)


def sara_runner(tmp_path, name, hook=None, adapter=SARA, more=(), **kwargs):
    base = tmp_path / 'base.pth'
    if not base.exists():
        write_base(base)
    config = backbone_cfg(base)
    config['adapter'] = adapter
    hooks = [
        dict(type='mmflora.SaRAHook', **(hook or {})),
        dict(type='mmflora.IterationSeedHook'),
        *more,
    ]
    return runner(
        tmp_path / name,
        config,
        epochs=kwargs.pop('epochs', 4),
        custom_hooks=hooks,
        param_scheduler=[],
        **kwargs,
    )


def sara_layers(built):
    return list(adapted_layers(built.model).values())


@pytest.mark.parametrize('half', [1, 2, 3])
def test_settles_once_and_resumes_exactly(tmp_path, half):
    """The middle of 12 iterations is the end of epoch 2."""
    whole = sara_runner(tmp_path, 'whole')
    whole.train()
    active = [layer.adapter.active for layer in sara_layers(whole)]
    assert not all(values.all() for values in active)
    assert any(values.any() for values in active)
    before = torch.load(tmp_path / 'whole/epoch_2.pth', weights_only=False)[
        'state_dict'
    ]
    assert all(v.all() for k, v in before.items() if k.endswith('.active'))

    second = sara_runner(
        tmp_path,
        'second',
        load_from=str(tmp_path / f'whole/epoch_{half}.pth'),
        resume=True,
    )
    second.train()
    for key, value in whole.model.state_dict().items():
        assert torch.equal(second.model.state_dict()[key], value), key


@pytest.mark.parametrize('update_buffers', [False, True])
def test_an_average_settles_the_same_entries(tmp_path, update_buffers):
    ema = dict(type='EMAHook', momentum=0.2, update_buffers=update_buffers)
    built = sara_runner(tmp_path, 'run', more=[ema])
    built.train()
    average = next(h for h in built.hooks if isinstance(h, EMAHook)).ema_model
    ours = adapted_layers(built.model)
    settled = 0
    for name, copy in adapted_layers(average.module).items():
        kept = ~ours[name].adapter.active
        settled += int(kept.sum())
        assert torch.equal(
            copy.adapter.current()[kept], ours[name].adapter.settled[kept]
        )
    assert settled


def test_penalty_is_added_to_one_layer_in_its_turn(tmp_path):
    built = sara_runner(tmp_path, 'run', hook=dict(penalty=0.5), epochs=1)
    built._init_model_weights()
    built.optim_wrapper = built.build_optim_wrapper(built.optim_wrapper)
    hook = next(h for h in built.hooks if isinstance(h, SaRAHook))
    hook.before_train(built)
    layers = sara_layers(built)
    hook._turn = len(layers) + 2
    for layer in layers:
        layer.adapter.values.grad = torch.zeros_like(layer.adapter.values)
    before = [layer.adapter.values.detach().clone() for layer in layers]
    expected = 0.5 * layers[2].adapter.penalty_gradient(layers[2])
    built.optim_wrapper.optimizer.step()
    hook.after_train(built)
    torch.testing.assert_close(layers[2].adapter.values.grad, expected)
    assert expected.any()
    for number, layer in enumerate(layers):
        moved = not torch.equal(layer.adapter.values, before[number])
        assert moved == (number == 2)
        assert number == 2 or not layer.adapter.values.grad.any()
    built.optim_wrapper.optimizer.step()
    torch.testing.assert_close(layers[2].adapter.values.grad, expected)


def test_the_penalty_makes_the_masked_weights_lower(tmp_path):
    norms = []
    for penalty in (0.0, 0.1):
        hook = dict(penalty=penalty, settle_at=1.0)
        built = sara_runner(tmp_path, f'p{penalty}', hook=hook, epochs=8)
        built.train()
        total = 0.0
        for layer in sara_layers(built):
            adapter = layer.adapter
            assert adapter.active.all()
            places = adapter.places.long()
            whole = layer.adapted_weight().flatten()
            masked = torch.zeros_like(whole)
            masked[places] = whole[places]
            matrix = masked.view(layer.weight.shape).flatten(1)
            total += float(torch.linalg.svdvals(matrix.detach()).sum())
        norms.append(total)
    assert norms[1] < norms[0]


def test_a_model_without_sara_is_refused(tmp_path):
    built = sara_runner(tmp_path, 'run', adapter=dict(type='LoRA', rank=2))
    with pytest.raises(
        ValueError, match='adapted by SaRA: .* has LoRA[.] Set'
    ):
        built.train()


@pytest.mark.parametrize(
    'settings',
    [dict(penalty=-1), dict(penalty=float('nan')), dict(settle_at=0)],
)
def test_settings_out_of_range(settings):
    with pytest.raises(ValueError, match='`penalty` is a finite number'):
        SaRAHook(**settings)
