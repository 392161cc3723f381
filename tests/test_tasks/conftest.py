import pytest
import torch
from test_engine.toy import (
    ToyModel,
    adapter_of,
    backbone_cfg,
    write_base,
)
from torch import nn

from mmflora.adapters import adapted_layers

__all__ = ['adapter_of']
IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope='session')
def base(tmp_path_factory):
    return write_base(tmp_path_factory.mktemp('base') / 'base.pth')


@pytest.fixture
def toy(base):
    """Build a toy model with random adapters and head over the base."""

    def build(seed, checkpoint=base, num_classes=3, **changes):
        model = ToyModel({**backbone_cfg(checkpoint), **changes}, num_classes)
        return randomise(model, seed).eval()

    return build


def randomise(model, seed):
    torch.manual_seed(seed)
    for parameter in model.parameters():
        if parameter.requires_grad:
            nn.init.normal_(parameter, std=0.3)
    return model


@torch.no_grad()
def outputs(model):
    return model(IMAGES)


@torch.no_grad()
def deltas(model):
    return {
        name: layer.delta_weight().double()
        for name, layer in adapted_layers(model).items()
    }


def storage_bytes(*models):
    """Return the bytes of all memory behind the models' tensors."""
    found = {}
    for model in models:
        for tensor in (*model.parameters(), *model.buffers()):
            storage = tensor.untyped_storage()
            found[storage.data_ptr()] = storage.nbytes()
    return sum(found.values())
