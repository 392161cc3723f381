import logging

import pytest
import torch
from mmengine.logging import MMLogger


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


@pytest.fixture
def adapter_parameters():
    """Return all parameters of a model's adapters."""
    from mmflora.adapters import adapted_layers

    def collect(model):
        return [
            parameter
            for layer in adapted_layers(model).values()
            for parameter in layer.adapter.parameters()
        ]

    return collect


@pytest.fixture(autouse=True)
def _quiet():
    """Backbones speak of every key that they do not know."""
    logger = MMLogger.get_current_instance()
    level = logger.level
    logger.setLevel(logging.ERROR)
    yield
    logger.setLevel(level)
