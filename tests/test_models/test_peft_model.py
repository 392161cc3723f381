"""Any parts of a model as frozen parts over a whole model's checkpoint."""

import copy

import pytest
import torch
from part_cases import CASES, batch, change, small_config, write_whole

from mmflora.adapters import adapted_layers
from mmflora.checkpoint.record import base_records
from mmflora.checkpoint.roles import Role, parameter_roles
from mmflora.config.build import build_model
from mmflora.config.peft.parts import use_parts


@pytest.fixture(scope='module', params=CASES)
def built(request, tmp_path_factory):
    """Return a case's model with frozen parts, and the file's weights."""
    case = CASES[request.param]
    folder = tmp_path_factory.mktemp(request.param)
    cfg = small_config(case, folder)
    state = write_whole(cfg, folder / 'whole.pth')
    change(cfg, case.classes)
    cfg.load_from = str(folder / 'whole.pth')
    changes = use_parts(cfg, case.parts)
    model = build_model(cfg)
    model.init_weights()
    return case, cfg, state, model, changes


def test_starts_from_the_file(built):
    case, cfg, state, model, _ = built
    kind = cfg.model.model_type.split('.')[-1]
    assert type(model).__name__ == kind
    ours = model.state_dict()
    new = {
        key for key, value in state.items() if value.shape != ours[key].shape
    }
    for key, value in state.items():
        if key not in new:
            assert torch.equal(ours[key], value), key
    assert bool(new) == bool(case.new)
    declared = [*cfg.model.get('new_params', ())]
    for settings in cfg.model.parts.values():
        declared += settings.get('new_params', ())
    assert set(declared) == case.new
    assert cfg.load_from is None


def test_a_step_trains_what_is_to_train(built):
    _, cfg, state, model, _ = built
    model = copy.deepcopy(model).train()
    assert model.init_weights.model is model
    torch.manual_seed(0)
    data = model.data_preprocessor(batch(cfg), True)
    losses = model.parse_losses(model(**data, mode='loss'))[0]
    assert torch.isfinite(losses)
    losses.backward()
    roles = list(parameter_roles(model))
    assert {item.part for item in roles} >= {*base_records(model)}
    for item in roles:
        assert item.parameter.requires_grad == item.trains, item.name
        if item.role is Role.BASE:
            assert item.parameter.grad is None, item.name
    cores = [layer.adapter for layer in adapted_layers(model).values()]
    assert cores
    without = [
        name
        for name, layer in adapted_layers(model).items()
        if not any(p.grad is not None for p in layer.adapter.parameters())
    ]
    assert without == []
    statistics = {k: v for k, v in state.items() if 'running' in k}
    parts = tuple(f'{name}.' for name in base_records(model))
    for key, value in statistics.items():
        if key.startswith(parts):
            assert torch.equal(model.state_dict()[key], value), key
