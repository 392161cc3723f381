"""What FLoRA holds after the forward pass, pinned to the byte's ratio.

The numbers do not depend on the machine.  A bound may be lowered; raising it
needs a reason.
"""

import pytest
import timm
import torch

from mmflora.adapters import inject, make_lean
from mmflora.adapters.memory.response_norm import use_memory_efficient_grn
from mmflora.memory_estimate.live_bytes import count_step

# Bytes over those of the frozen stock model, rounded up in the third digit,
# and the parameters of adapters at rank 16 on all layers.
CASES = {
    # 1x1 convolutions as MLP.
    'convnextv2_atto': (dict(), 0.730, 0.418, 348_541),
    # Linear layers as MLP, as the larger models have them.
    'convnextv2_tiny': (
        dict(depths=(1, 1, 2, 1), dims=(32, 64, 128, 256)),
        1.002,
        0.595,
        124_610,
    ),
    # No GRN to save at; attention's output is kept twice, in two layouts.
    'vit_tiny_patch16_224': (dict(img_size=128), 1.628, 1.236, 605_449),
}


def held(model, frozen=False):
    images = torch.randn(2, 3, 128, 128, requires_grad=frozen)
    return count_step(lambda: model(images), lambda y: y.sum().backward()).held


def build(name, lean=None):
    torch.manual_seed(0)
    options = CASES[name][0]
    model = timm.create_model(name, num_classes=0, global_pool='', **options)
    if lean is None:
        return model.requires_grad_(False)
    use_memory_efficient_grn(model)
    inject(model, dict(type='FLoRA', rank=16, kernel_rank=2))
    if lean:
        make_lean(model)
    return model


@pytest.mark.parametrize('name', CASES)
def test_bytes_and_parameters_do_not_grow(name):
    _, plain_bound, lean_bound, trainable = CASES[name]
    floor = held(build(name), frozen=True)
    plain, lean = build(name, lean=False), build(name, lean=True)
    for model in (plain, lean):
        found = sum(p.numel() for p in model.parameters() if p.requires_grad)
        assert found == trainable
    assert held(plain) / floor <= plain_bound
    assert held(lean) / floor <= lean_bound
