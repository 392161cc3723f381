"""Adapter files that were trained over a quantized base."""

import pytest
import torch
from torch import nn

from mmflora.adapter_files.convert import from_state
from mmflora.adapter_files.describe import describe_adapter
from mmflora.checkpoint import adapter_state_dict
from mmflora.models import FLoRAInternViT, InternViT
from mmflora.tasks.combine import combine_adapters

SMALL = dict(
    img_size=28,
    embed_dims=8,
    depth=1,
    num_heads=2,
    out_indices=(0,),
    pyramid=False,
)


class Model(nn.Module):
    def __init__(self, **options):
        super().__init__()
        self.backbone = FLoRAInternViT(
            **SMALL, adapter=dict(type='FLoRA', rank=2), **options
        )


@pytest.fixture
def adapter(tmp_path):
    path = tmp_path / 'base.pth'
    torch.save(InternViT(**SMALL).state_dict(), path)

    def build(bits):
        model = Model(
            quantize=bits and dict(bits=bits),
            init_cfg=dict(type='Pretrained', checkpoint=str(path)),
        )
        with adapter_state_dict():
            return from_state(model.state_dict(), {}, {})

    return build


def test_a_file_says_how_its_base_was_stored(adapter):
    assert "quantize {'bits': 4, " in describe_adapter(adapter(4))
    assert 'quantize' not in describe_adapter(adapter(None))


def test_only_adapters_of_the_same_storage_are_summed(adapter):
    four, eight = adapter(4), adapter(8)
    combined = combine_adapters([four, adapter(4)], (1.0, 0.5))
    assert combined.backbone()['method']['quantize']['bits'] == 4
    with pytest.raises(ValueError, match='stored otherwise'):
        combine_adapters([four, eight], (1.0, 1.0))
