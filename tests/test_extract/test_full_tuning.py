"""From a full fine-tuning to an adapter that loads and trains on."""

import math

import pytest
import torch

from mmflora.adapter_files import apply_adapter, read_adapter, write_adapter
from mmflora.adapter_files.convert import from_state
from mmflora.adapters import adapted_layers
from mmflora.checkpoint import adapter_state_dict
from mmflora.extract import extract_adapter, parameters_at, rank_for
from mmflora.extract.report import draw_spectra, energy_table

IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def test_exact_recovery(toy, tuned, tmp_path):
    weights = tuned()
    model, said = toy(), []
    rows = extract_adapter(model, weights, said.append)
    layers = adapted_layers(model)
    assert [row.layer for row in rows] == list(layers)
    assert len(said) == len(rows)
    for row in rows:
        assert row.flora == pytest.approx(1, abs=1e-6)
        own = (
            layers[row.layer].delta_weight() + layers[row.layer].base_weight()
        )
        wanted = weights[f'{row.layer}.weight']
        torch.testing.assert_close(own, wanted, rtol=1e-4, atol=1e-4)
        assert row.parameters == sum(
            p.numel() for p in layers[row.layer].adapter.parameters()
        )
    expected = toy(seed=1).eval()(IMAGES)
    got = model.eval()(IMAGES)
    torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-3)
    with adapter_state_dict():
        adapter = from_state(model.state_dict(), {}, {})
    read = read_adapter(write_adapter(adapter, tmp_path / 'extracted'))
    assert torch.equal(apply_adapter(toy(), read).eval()(IMAGES), got)


@torch.no_grad()
def test_a_fine_tuning_of_mmflora_keeps_its_record_to_itself(toy, tuned):
    """Its own names the method that trained the base in full."""
    model = toy()
    before = model.backbone.base_record.info.clone()
    other = toy(rank=2).backbone.base_record.info
    weights = {**tuned(), 'backbone.base_record.info': other}
    assert not torch.equal(other, before)
    extract_adapter(model, weights)
    assert torch.equal(model.backbone.base_record.info, before)


def test_less_rank_explains_less(toy, tuned):
    weights = tuned()
    low, high = (extract_adapter(toy(rank), weights) for rank in (1, 2))
    for one, two in zip(low, high, strict=True):
        assert 0 < one.flora <= two.flora + 1e-9
        assert one.hosvd <= one.flora + 1e-9
        assert 0 <= one.lora <= 1 + 1e-9
        norm = float(one.spectrum.square().sum())
        assert norm == pytest.approx(one.norm**2, rel=1e-6)
        core = float(one.core_spectrum.square().sum())
        assert core == pytest.approx(one.flora * one.norm**2, rel=1e-5)
    assert min(row.flora for row in low) < 0.9


def test_what_does_not_fit_changes_nothing(toy, tuned):
    model = toy()
    before = {k: v.clone() for k, v in model.state_dict().items()}

    def refused(weights, message):
        with pytest.raises(ValueError, match=message):
            extract_adapter(model, weights)
        for key, value in model.state_dict().items():
            assert torch.equal(value, before[key]), key

    weights = tuned()
    refused({**weights, 'x.weight': torch.ones(2)}, 'unknown to the model')
    refused({**weights, 'head.weight': torch.ones(2)}, 'of another shape')
    del weights['backbone.stem.0.weight']
    refused(weights, 'missing in the file: backbone.stem.0.weight')
    plain = toy(type='mmflora.PEFTConvNeXt', adapter=None)
    with pytest.raises(ValueError, match='no adapted layer'):
        extract_adapter(plain, tuned())


@pytest.mark.parametrize('kernel_rank', [1, 2, 3])
def test_ranks_within_a_budget(toy, kernel_rank):
    adapter = dict(type='FLoRA', rank=2, kernel_rank=kernel_rank)
    adapters = [
        layer.adapter
        for layer in adapted_layers(toy(adapter=adapter)).values()
    ]
    count = sum(p.numel() for one in adapters for p in one.parameters())
    assert parameters_at(adapters, 2) == count
    assert rank_for(adapters, count) == 2
    assert rank_for(adapters, count - 1) == 1
    assert rank_for(adapters, 10**9) == max(
        max(one.weight_shape) for one in adapters
    )
    with pytest.raises(ValueError, match='rank 1 takes'):
        rank_for(adapters, 10)


def test_table_and_picture(toy, tuned, tmp_path):
    rows = extract_adapter(toy(2), tuned())
    lines = energy_table(rows).splitlines()
    assert len(lines) == len(rows) + 3
    squares = [row.norm**2 for row in rows]
    mean = sum(
        row.flora * square for row, square in zip(rows, squares, strict=True)
    ) / math.fsum(squares)
    assert f'{mean:6.1%}' in lines[-2]
    draw_spectra(rows, tmp_path / 'spectrum.png')
    assert (tmp_path / 'spectrum.png').stat().st_size > 10_000
