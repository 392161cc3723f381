import copy

import pytest
import torch
from adapter_models import MODELS, build
from convnext_files import V2, fair_layout, stock_net

from mmflora.checkpoint import adapter_state_dict


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture
def randomise():
    """Draw parameters anew: zero cores and unit norms would hide mistakes."""

    def draw(parameters, spread=0.3):
        with torch.no_grad():
            for parameter in parameters:
                parameter.normal_(std=spread)

    return draw


@pytest.fixture(params=MODELS.values(), ids=MODELS)
def kind(request):
    return request.param


@pytest.fixture
def base(tmp_path):
    path = tmp_path / 'base.pth'
    torch.save(dict(model=fair_layout(stock_net(V2))), path)
    return path


@pytest.fixture
def trained(kind, base, randomise):
    model = build(kind, base)
    randomise(value for value in model.parameters() if value.requires_grad)
    return model


@pytest.fixture
def state(trained):
    with adapter_state_dict():
        return copy.deepcopy(trained.state_dict())
