"""Two runs: train all, and train again what has moved most, from the base."""

import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from test_engine.toy import ToyModel, backbone_cfg, runner
from test_tools.conftest import load_tool

from mmflora.adapter_files import read_adapter
from mmflora.adapters import adapted_layers
from mmflora.extract import ticket
from mmflora.extract.ticket import make_ticket
from mmflora.tasks import combine_adapters

TICKET = dict(type='LotteryTicket', density=0.2)


@pytest.fixture(autouse=True)
def _toys_are_built(monkeypatch):
    monkeypatch.setattr(
        ticket,
        'build_model',
        lambda config: ToyModel(config.model.backbone.to_dict()),
    )


class Start(Hook):
    """Keeps what a training starts from."""

    def before_train(self, runner):
        state = runner.model.state_dict()
        self.state = {key: value.clone() for key, value in state.items()}


def config_of(base, adapter=TICKET):
    backbone = dict(backbone_cfg(base), type='mmflora.PEFTConvNeXt')
    backbone['adapter'] = adapter
    return Config(
        dict(
            model=dict(type='mmengine.ToyModel', backbone=backbone),
            default_scope='mmdet',
        )
    )


def second_run(tmp_path, config, name='second', epochs=2, **options):
    hooks = [dict(type='mmflora.CalibrationHook')]
    return runner(
        tmp_path / name,
        config.model.backbone.to_dict(),
        epochs=epochs,
        custom_hooks=hooks,
        **options,
    )


def test_two_runs_and_sums(base, tmp_path, capsys):
    full = config_of(base, dict(type='Full')).model.backbone.to_dict()
    first = runner(tmp_path / 'full', full, epochs=1)
    before = {k: v.clone() for k, v in first.model.state_dict().items()}
    first.train()
    tuned = tmp_path / 'full/epoch_1.pth'
    config = config_of(base)
    config.dump(tmp_path / 'config.py')
    out = tmp_path / 'ticket'
    tool = load_tool('adapters')
    words = ['ticket', tuned, out, '--config', tmp_path / 'config.py']
    tool.main([str(word) for word in words])
    assert f'load_from={out}' in capsys.readouterr().out

    run = second_run(tmp_path, config, load_from=str(out))
    start = Start()
    run.register_hook(start, priority='LOWEST')
    run.train()
    after = first.model.state_dict()
    for name, layer in adapted_layers(run.model).items():
        moved = after[f'{name}.weight'] - before[f'{name}.weight']
        sizes = moved.abs().flatten()
        count = max(1, int(0.2 * moved.numel()))
        kept = set(start.state[f'{name}.adapter.places'].tolist())
        # Of equal movements any may be taken.
        least = sizes.sort(descending=True).values[count - 1]
        assert len(kept) == count
        assert (sizes[list(kept)] >= least).all()
        assert not start.state[f'{name}.adapter.values'].any()
        assert torch.equal(layer.weight, before[f'{name}.weight'])
    assert not torch.equal(start.state['head.weight'], after['head.weight'])
    assert all(
        layer.adapter.values.any()
        for layer in adapted_layers(run.model).values()
    )
    one = tmp_path / 'second/epoch_2.pth'
    again = second_run(
        tmp_path, config, 'again', load_from=str(one), resume=True, epochs=3
    )
    again.train()

    summed = combine_adapters([read_adapter(out)] * 2, (1.0, 1.0))
    assert summed.backbone()['method']['adapter']['density'] == 0.4


def test_a_training_without_a_ticket_says_how_to_get_one(base, tmp_path):
    run = second_run(tmp_path, config_of(base))
    with pytest.raises(ValueError, match=r'adapters\.py ticket FINETUNED OUT'):
        run.train()


def test_files_that_give_no_ticket(base, tmp_path):
    config = config_of(base)
    stock = torch.load(base, weights_only=True)['state_dict']
    state = {f'backbone.{key}': value for key, value in stock.items()}
    file = tmp_path / 'tuned.pth'
    torch.save(dict(state_dict=state), file)
    with pytest.raises(ValueError, match='nothing has moved'):
        make_ticket(config, str(file))
    key = next(k for k in state if k.endswith('fc1.weight'))
    torch.save(dict(state_dict={**state, key: state[key][1:]}), file)
    with pytest.raises(ValueError, match=f"do not fit: '{key}' is"):
        make_ticket(config, str(file))
    with pytest.raises(ValueError, match='no LotteryTicket adapters'):
        make_ticket(config_of(base, dict(type='LoRA', rank=2)), str(file))
