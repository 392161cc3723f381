import math

import pytest
import torch
from torch import nn

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


@pytest.mark.parametrize('scale', [math.inf, -math.inf, math.nan])
def test_scale_must_be_finite(scale):
    with pytest.raises(ValueError, match='scale must be finite'):
        FLoRA(torch.empty(CONV), scale=scale)


@pytest.mark.parametrize('dropout', [-0.1, 1.0, 2, math.nan])
def test_dropout_must_be_a_probability(dropout):
    with pytest.raises(ValueError, match='dropout'):
        FLoRA(torch.empty(CONV), dropout=dropout)


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


def test_same_seed_same_start():
    def draw():
        torch.manual_seed(3)
        return FLoRA(torch.empty(CONV)).state_dict()

    first, second = draw(), draw()
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_scale_enters_once(randomise):
    adapter = randomise(FLoRA(torch.empty(CONV).double(), rank=2, scale=1.0))
    unscaled = adapter.delta_weight()
    adapter.scale = 2.5
    torch.testing.assert_close(
        adapter.delta_weight(), 2.5 * unscaled, rtol=1e-10, atol=1e-12
    )


def test_core_parameters_are_the_core():
    adapter = FLoRA(torch.empty(CONV))
    assert [id(core) for core in adapter.core_parameters()] == [
        id(adapter.core)
    ]


@pytest.mark.parametrize(
    ('frozen', 'trained'),
    [
        (torch.float64, torch.float64),
        (torch.float32, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.float16, torch.float32),
    ],
    ids=str,
)
def test_type_of_the_parameters(frozen, trained):
    adapter = FLoRA(torch.empty(CONV, dtype=frozen))
    assert {value.dtype for value in adapter.parameters()} == {trained}
    assert all(value.requires_grad for value in adapter.parameters())


def test_parameters_follow_the_weights_device():
    adapter = FLoRA(nn.Conv2d(6, 8, 3, device='meta').weight)
    assert all(value.is_meta for value in adapter.parameters())
    assert adapter.delta_weight().shape == CONV


def test_ranks_and_scale_are_printed():
    assert 'ranks=(4, 4, 2, 2), scale=4' in repr(FLoRA(torch.empty(CONV), 4))


def test_signature_tells_settings_apart_but_not_dropout():
    def signature(**options):
        return FLoRA(torch.empty(CONV), **options).signature()

    assert signature() == signature(rank=[16, 16, 2, 2], dropout=0.1)
    others = [
        signature(scale=4.0000001),
        signature(rank=2),
        signature(kernel_rank=1),
    ]
    assert len({signature(), *others}) == 4
