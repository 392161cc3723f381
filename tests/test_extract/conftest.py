import pytest
import torch
from test_engine.toy import ToyModel, backbone_cfg, write_base
from torch import nn

from mmflora.adapters import merge


@pytest.fixture
def base(tmp_path):
    return write_base(tmp_path / 'base.pth')


@pytest.fixture
def toy(base):
    def build(rank=3, seed=None, **changes):
        adapter = dict(type='FLoRA', rank=rank)
        model = ToyModel({**backbone_cfg(base), 'adapter': adapter, **changes})
        if seed is not None:
            torch.manual_seed(seed)
            for parameter in model.parameters():
                if parameter.requires_grad:
                    nn.init.normal_(parameter, std=0.3)
        return model

    return build


@pytest.fixture
def tuned(toy):
    """Fine-tuned weights whose update is of rank 3 in every layer."""

    def tuned(**changes):
        model = toy(seed=1, **changes)
        merge(model)
        return {
            key: value.clone()
            for key, value in model.state_dict().items()
            if 'base_record' not in key
        }

    return tuned
