"""Two runs: train all, and train again what has moved most, from the base."""

import pytest
import torch
from mmengine.config import Config
from test_engine.toy import ToyModel, backbone_cfg, runner

from mmflora.extract import ticket
from mmflora.extract.ticket import make_ticket

TICKET = dict(type='LotteryTicket', density=0.2)


@pytest.fixture(autouse=True)
def _toys_are_built(monkeypatch):
    monkeypatch.setattr(
        ticket,
        'build_model',
        lambda config: ToyModel(config.model.backbone.to_dict()),
    )


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
