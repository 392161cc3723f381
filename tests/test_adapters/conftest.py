import pytest
import torch


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture
def randomise():
    """Draw every parameter anew: a zero core would hide any mistake."""

    def draw(module):
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.normal_()
        return module

    return draw
