import math

import pytest
import torch

from mmflora.adapters import FLoRA, tucker_ranks

CONV = (8, 6, 3, 3)
RANKS = {
    'one number': (CONV, 4, 2, (4, 4, 2, 2)),
    'kernel rank 1': (CONV, 4, 1, (4, 4, 1, 1)),
    'clipped channels': (CONV, 99, 2, (8, 6, 2, 2)),
    'clipped kernel': (CONV, 4, 7, (4, 4, 3, 3)),
    'per mode': (CONV, [5, 4, 3, 2], 1, (5, 4, 3, 2)),
    'per mode, tuple': (CONV, (5, 4, 3, 2), 1, (5, 4, 3, 2)),
    'per mode, clipped': (CONV, [9, 9, 9, 9], 2, (8, 6, 3, 3)),
    'depthwise': ((8, 1, 7, 7), 4, 2, (4, 1, 2, 2)),
    'pointwise': ((8, 6, 1, 1), 4, 2, (4, 4, 1, 1)),
    'linear': ((8, 6), 4, 2, (4, 4)),
    'linear, per mode': ((8, 6), [4, 3], 2, (4, 3)),
    'conv1d': ((8, 6, 5), 4, 2, (4, 4, 2)),
    'conv3d': ((8, 6, 5, 4, 3), 4, 2, (4, 4, 2, 2, 2)),
}


@pytest.mark.parametrize(
    ('shape', 'rank', 'kernel_rank', 'expected'), RANKS.values(), ids=RANKS
)
def test_ranks(shape, rank, kernel_rank, expected):
    assert tucker_ranks(shape, rank, kernel_rank) == expected
    adapter = FLoRA(torch.empty(shape), rank, kernel_rank)
    assert adapter.core.shape == expected
    assert [tuple(factor.shape) for factor in adapter.factors] == list(
        zip(shape, expected, strict=True)
    )


BAD_RANKS = {
    'zero': dict(rank=0),
    'negative': dict(rank=-1),
    'fraction': dict(rank=1.5),
    'bool': dict(rank=True),
    'text': dict(rank='16'),
    'none': dict(rank=None),
    'kernel zero': dict(kernel_rank=0),
    'kernel bool': dict(kernel_rank=True),
    'kernel fraction': dict(kernel_rank=2.0),
    'zero in a list': dict(rank=[4, 4, 0, 2]),
    'too few': dict(rank=[4, 4]),
    'too many': dict(rank=[4, 4, 2, 2, 2]),
    'none at all': dict(rank=[]),
}


@pytest.mark.parametrize('options', BAD_RANKS.values(), ids=BAD_RANKS)
def test_bad_rank_is_refused_with_its_value(options):
    (value,) = options.values()
    with pytest.raises(ValueError, match='FLoRA') as caught:
        FLoRA(torch.empty(CONV), **options)
    assert repr(value) in str(caught.value)


def test_defaults_are_the_papers():
    adapter = FLoRA(torch.empty(64, 64, 3, 3))
    assert adapter.ranks == (16, 16, 2, 2)
    assert adapter.scale == 4.0
    assert adapter.dropout == 0.0


def test_core_starts_at_zero_and_factors_with_kaimings_spread():
    adapter = FLoRA(torch.empty(512, 512, 64, 64), rank=64, kernel_rank=16)
    assert not adapter.core.any()
    for factor, rank in zip(adapter.factors, (64, 64, 16, 16), strict=True):
        # Gain of Kaiming's a = √3 is √(2 / (1 + 3)); the fan-in is the rank.
        expected = math.sqrt(0.5 / rank)
        # Three standard errors of the smallest factor's spread.
        bound = 3 / math.sqrt(2 * factor.numel())
        assert factor.std().item() == pytest.approx(expected, rel=bound)
        assert abs(factor.mean().item()) < 3 * expected / math.sqrt(
            factor.numel()
        )


def test_factors_are_gaussian_not_uniform():
    factor = FLoRA(torch.empty(4096, 16), rank=16).factors[0]
    kurtosis = (factor / factor.std()).pow(4).mean().item()
    assert kurtosis == pytest.approx(3, abs=0.2)  # 1.8 for a uniform one


def test_core_parameters_are_the_core():
    adapter = FLoRA(torch.empty(CONV))
    assert [id(core) for core in adapter.core_parameters()] == [
        id(adapter.core)
    ]


def test_ranks_and_scale_are_printed():
    assert 'ranks=(4, 4, 2, 2), scale=4' in repr(FLoRA(torch.empty(CONV), 4))
