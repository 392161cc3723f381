"""HOSVD, HOOI and SVD against what linear algebra says of them."""

import builtins

import pytest
import torch

from mmflora.adapters import FLoRA, tucker_ranks
from mmflora.extract import lora_energy, nearest_tucker, spectrum

SHAPES = {
    'linear': (24, 16),
    'conv': (12, 10, 3, 3),
    'depthwise': (12, 1, 7, 7),
    'pointwise': (12, 10, 1, 1),
}


def low_rank(shape, rank, seed=0):
    torch.manual_seed(seed)
    adapter = FLoRA(torch.empty(shape), rank=rank).double()
    for parameter in adapter.parameters():
        torch.nn.init.normal_(parameter)
    with torch.no_grad():
        return adapter.delta_weight()


@pytest.mark.parametrize('iterations', [0, 50], ids=['HOSVD', 'HOOI'])
@pytest.mark.parametrize('shape', SHAPES.values(), ids=SHAPES)
def test_updates_of_the_rank_are_recovered_exactly(shape, iterations):
    delta = low_rank(shape, 3)
    ranks = tucker_ranks(shape, 3, 2)
    found = nearest_tucker(delta, ranks, iterations)
    assert tuple(found.core.shape) == ranks
    torch.testing.assert_close(found.dense(), delta, rtol=0, atol=1e-9)
    for factor in found.factors:
        identity = torch.eye(factor.shape[1], dtype=torch.float64)
        torch.testing.assert_close(factor.T @ factor, identity)


def test_a_matrix_is_truncated_as_svd_does():
    torch.manual_seed(1)
    delta = torch.randn(20, 30, dtype=torch.float64)
    left, values, right = torch.linalg.svd(delta, full_matrices=False)
    best = left[:, :5] * values[:5] @ right[:5]
    found = nearest_tucker(delta, (5, 5))
    torch.testing.assert_close(found.dense(), best)
    whole = float(values.square().sum())
    part = float(values[:5].square().sum()) / whole
    assert lora_energy(delta, 5 * 50) == pytest.approx(part)
    assert lora_energy(delta, 5 * 50 + 49) == pytest.approx(part)
    assert lora_energy(delta, 49) == 0
    assert lora_energy(delta, 10**6) == pytest.approx(1)


def test_hooi_is_nearer_than_hosvd():
    torch.manual_seed(2)
    delta = torch.randn(10, 9, 5, 5, dtype=torch.float64)
    errors = [
        float((nearest_tucker(delta, (3, 3, 2, 2), n).dense() - delta).norm())
        for n in (0, 50)
    ]
    assert errors[1] < 0.999 * errors[0] < errors[0] < float(delta.norm())


def test_no_update_and_broken_ones():
    zero = nearest_tucker(torch.zeros(6, 5), (2, 2))
    assert zero.core.abs().max() == 0
    assert zero.factors[0].norm() > 0, 'it must be able to train'
    assert lora_energy(torch.zeros(6, 5), 10) == 1
    with pytest.raises(ValueError, match='not finite'):
        nearest_tucker(torch.full((3, 3), float('nan')), (1, 1))


@pytest.mark.parametrize('shape', SHAPES.values(), ids=SHAPES)
def test_spectra_are_those_of_the_unfoldings(shape):
    torch.manual_seed(3)
    delta = torch.randn(shape, dtype=torch.float64)
    for mode in range(delta.dim()):
        values = spectrum(delta, mode)
        unfolded = delta.movedim(mode, 0).flatten(1)
        expected = torch.linalg.svdvals(unfolded)
        torch.testing.assert_close(values, expected, rtol=1e-6, atol=1e-6)


def test_without_tensorly_the_error_says_how(monkeypatch):
    real = builtins.__import__

    def without(name, *rest):
        if name.startswith('tensorly'):
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, '__import__', without)
    with pytest.raises(ImportError, match=r'mmflora\[extract\]'):
        nearest_tucker(torch.ones(3, 3), (1, 1))
