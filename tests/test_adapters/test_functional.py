import pytest
import torch
from references import REFERENCES

from mmflora.adapters import mode_product, tucker_to_weight

EXACT = dict(rtol=1e-10, atol=1e-12)

# Sizes and ranks per number of modes; all differ, so that no transposition
# of modes goes unseen.
CASES = {
    'vector': ((7,), (3,)),
    'linear': ((7, 5), (3, 2)),
    'conv1d': ((7, 5, 4), (3, 4, 2)),
    'conv2d': ((7, 5, 4, 3), (4, 3, 2, 1)),
    'conv3d': ((6, 5, 4, 3, 2), (2, 3, 4, 1, 2)),
    'depthwise': ((7, 1, 5, 5), (3, 1, 2, 2)),
    'pointwise': ((7, 5, 1, 1), (3, 2, 1, 1)),
}


def random_tucker(sizes, ranks):
    generator = torch.Generator().manual_seed(0)
    draw = dict(generator=generator, dtype=torch.float64)
    core = torch.randn(ranks, **draw)
    factors = [
        torch.randn(size, rank, **draw)
        for size, rank in zip(sizes, ranks, strict=True)
    ]
    return core, factors


@pytest.mark.parametrize('reference', ['einsum', 'tensorly'])
@pytest.mark.parametrize(('sizes', 'ranks'), CASES.values(), ids=CASES)
def test_tucker_equals_a_reference(sizes, ranks, reference):
    core, factors = random_tucker(sizes, ranks)
    actual = tucker_to_weight(core, factors)
    assert actual.shape == sizes
    expected = REFERENCES[reference](core, factors)
    torch.testing.assert_close(actual, expected, **EXACT)


@pytest.mark.parametrize('mode', [0, 1, 2])
def test_mode_product_replaces_one_mode(mode):
    generator = torch.Generator().manual_seed(mode)
    tensor = torch.randn(3, 4, 5, generator=generator, dtype=torch.float64)
    matrix = torch.randn(
        6, tensor.shape[mode], generator=generator, dtype=torch.float64
    )
    fibres = tensor.movedim(mode, -1) @ matrix.T
    torch.testing.assert_close(
        mode_product(tensor, matrix, mode), fibres.movedim(-1, mode), **EXACT
    )


def test_factor_of_another_rank_is_named():
    core, factors = random_tucker((7, 5), (3, 2))
    factors[1] = torch.ones(5, 4, dtype=torch.float64)
    with pytest.raises(ValueError, match=r'core of shape \(3, 2\).*\(3, 4\)'):
        tucker_to_weight(core, factors)


@pytest.mark.parametrize('count', [0, 1, 3])
def test_number_of_factors_is_checked(count):
    core, _ = random_tucker((7, 5), (3, 2))
    factors = [torch.ones(5, 3, dtype=torch.float64)] * count
    with pytest.raises(ValueError, match='one factor'):
        tucker_to_weight(core, factors)
