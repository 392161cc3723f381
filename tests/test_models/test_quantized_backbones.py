"""Backbones whose frozen linear weights are quantized."""

import copy

import pytest
import torch
from mmengine.model import BaseModule
from mmengine.registry import MODELS
from torch import nn

from mmflora.adapters.quantized import QuantizedWeight
from mmflora.adapters.quantized_base import (
    quantized_weights,
)
from mmflora.count.parameters import count_model
from mmflora.engine.optimizer import PEFTOptimWrapperConstructor
from mmflora.engine.parameter_table import count_parameters
from mmflora.export.merged_state import merged_state
from mmflora.models import (
    FLoRAInternViT,
    InternViT,
    PEFTConvNeXt,
    PEFTInternViT,
)

SMALL = dict(
    img_size=56,
    embed_dims=24,
    depth=4,
    num_heads=3,
    mlp_ratio=2.0,
    out_indices=(0, 1, 2, 3),
)
LINEAR = 4 * (72 * 24 + 24 * 24 + 2 * 48 * 24)
ARCH = dict(
    depths=(1, 1, 1, 1), dims=(8, 8, 16, 16), use_grn=True, conv_mlp=False
)
FLORA = dict(type='FLoRA', rank=2, scale=0.5)


def images():
    generator = torch.Generator().manual_seed(5)
    return torch.randn(1, 3, 56, 56, generator=generator)


@pytest.fixture
def base(tmp_path):
    """Weights of a small InternViT, one of its layers very uneven."""
    state = InternViT(**SMALL).state_dict()
    state = {key: state[key] for key in state if 'pyramid' not in key}
    state['blocks.2.mlp.fc1.weight'][::7] *= 50
    torch.save(state, tmp_path / 'base.pth')
    return dict(type='Pretrained', checkpoint=str(tmp_path / 'base.pth'))


def build(base, bits=4, kind=FLoRAInternViT, **options):
    quantize = None if bits is None else dict(bits=bits)
    options = dict(adapter=FLORA, quantize=quantize) | options
    return kind(**SMALL, init_cfg=base, **options)


@pytest.mark.parametrize('bits', [8, 4])
@pytest.mark.parametrize('dtype', [None, 'bfloat16'])
def test_loading_rounds_what_the_file_holds(base, bits, dtype):
    model = build(base, bits, dtype=dtype)
    dense = build(base, None, dtype=dtype)
    stored = quantized_weights(model)
    assert sum(weight.numel() for weight in stored.values()) == LINEAR
    assert {name.split('.')[-2] for name in stored} == {
        *('qkv', 'proj', 'fc1', 'fc2')
    }
    own = dict(dense.named_parameters())
    for name, weight in stored.items():
        expected = QuantizedWeight.empty(own[name], weight.scheme)
        expected.store(own[name])
        assert torch.equal(weight.codes, expected.codes), name
        assert torch.equal(weight.scales, expected.scales), name
    others = own.keys() - stored.keys()
    values = dict(model.named_parameters())
    for name in model.base_record.base_keys:
        if name in others:
            assert torch.equal(values[name], own[name]), name


def test_every_class_takes_the_option(base):
    options = dict(quantize=dict(bits=8), allow_random_base=True)
    convnext = PEFTConvNeXt(ARCH, adapter=FLORA, **options)
    assert {name.split('.')[-2] for name in quantized_weights(convnext)} == {
        *('fc1', 'fc2')
    }
    convnext(torch.randn(1, 3, 64, 64))[-1].sum().backward()
    built = MODELS.build(
        dict(
            type='mmflora.PEFTBackbone',
            backbone=dict(type='mmflora.InternViT', init_cfg=base, **SMALL),
            adapter=FLORA,
            quantize=dict(bits=4),
        )
    )
    direct = build(base)
    direct.load_state_dict(built.state_dict())
    one, two = quantized_weights(built), quantized_weights(direct)
    assert len(one) == 16
    assert all(torch.equal(one[key], two[key]) for key in two)
    assert built.base_record.sha256 == direct.base_record.sha256


@pytest.mark.parametrize('with_cp', [False, 'mlp', True])
def test_a_step_trains_adapters_and_leaves_the_bits(base, with_cp):
    model = build(base, dtype='bfloat16', autocast='bfloat16', with_cp=with_cp)
    model.init_weights()
    before = copy.deepcopy(dict(model.named_parameters()))
    wrapper = PEFTOptimWrapperConstructor(
        dict(optimizer=dict(type='AdamW', lr=1e-2))
    )(model)
    for _ in range(2):  # factors move once the core has
        loss = sum(item.square().mean() for item in model(images()))
        wrapper.update_params(loss)
    assert not any(
        isinstance(parameter, QuantizedWeight)
        for group in wrapper.param_groups
        for parameter in group['params']
    )
    for name, parameter in model.named_parameters():
        same = torch.equal(parameter, before[name])
        assert same != parameter.requires_grad, name
        if isinstance(parameter, QuantizedWeight):
            assert torch.equal(parameter.codes, before[name].codes)


def test_init_weights_of_mmengine_reads_every_parameter(base):
    class Holder(BaseModule):
        def __init__(self):
            super().__init__()
            self.backbone = build(base)

    holder = Holder()
    before = copy.deepcopy(quantized_weights(holder))
    holder.init_weights()
    for name, weight in quantized_weights(holder).items():
        assert torch.equal(weight.codes, before[name].codes)


def test_counts_are_those_of_the_dense_model(base):
    counts = []
    for bits in (None, 8, 4):
        model = build(base, bits)
        rows = count_parameters(model)
        counts.append(
            {
                key: (row.total, row.trainable, row.layers)
                for key, row in rows.items()
            }
        )
        counted = count_model(model)
        assert counted.base == rows['backbone: frozen base'].total
        assert counted.method == rows['backbone: adapters'].total
    assert counts[0] == counts[1] == counts[2]


def test_meta_models_of_full_size_count_their_bytes():
    with torch.device('meta'):
        model = FLoRAInternViT(dtype='bfloat16', quantize=dict(bits=4))
    linear = 48 * 12 * 3200**2
    stored = quantized_weights(model)
    assert sum(weight.numel() for weight in stored.values()) == linear
    assert sum(weight.nbytes for weight in stored.values()) == (
        linear // 2 + 2 * linear // 64
    )


@pytest.mark.parametrize(
    'method', [dict(type='FLoRA', rank=2), dict(type='BitFit'), None], ids=str
)
def test_merged_state_is_dense_and_fits_the_stock_model(base, method):
    model = build(base, kind=PEFTInternViT, adapter=method).eval()
    for parameter in model.parameters():
        if parameter.requires_grad:
            nn.init.normal_(parameter, std=0.1)
    expected = model(images())
    state = merged_state(copy.deepcopy(model))
    assert not any(isinstance(v, QuantizedWeight) for v in state.values())
    stock = InternViT(**SMALL).eval()
    stock.load_state_dict(state, strict=True)
    for one, two in zip(stock(images()), expected, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('dtype', [None, 'bfloat16'])
@pytest.mark.parametrize('targets', ['.*', None])
def test_full_tuning_over_few_bits_is_refused(base, dtype, targets):
    with pytest.raises(ValueError, match='16 weights are to train') as caught:
        build(
            base,
            kind=PEFTInternViT,
            adapter=dict(type='Full'),
            targets=targets,
            dtype=dtype,
        )
    assert 'blocks.0.attn.qkv.weight' in str(caught.value)


def test_full_tuning_beside_few_bits_is_possible(base):
    model = build(
        base,
        kind=PEFTInternViT,
        adapter=dict(type='FLoRA', rank=2),
        targets={r'.*fc2': dict(type='Full'), r'blocks.*(qkv|proj|fc1)': {}},
        quantize=dict(bits=4, exclude=r'.*fc2'),
    )
    assert len(quantized_weights(model)) == 12
    assert len(model.base_record.tuned_keys) == 8


@pytest.mark.usefixtures('log_text')
def test_the_log_says_what_it_costs(base, caplog):
    model = build(base)
    (text,) = [text for text in caplog.messages if '4 bits' in text]
    stored = quantized_weights(model)
    worst = max(stored, key=lambda name: stored[name].error)
    assert f"largest in '{worst.removesuffix('.weight')}'" in text
    assert '16 weights' in text
    assert 'blocks.N.attn.qkv' in text
    assert f'{stored[worst].error:.5f}' in text
