"""How differences are measured, and what sizes configs speak of."""

import math

import pytest
import torch

from mmflora.export import largest_difference
from mmflora.export.dense_outputs import image_size


def test_largest_of_all_outputs():
    first = dict(a=torch.tensor([1.0, -4.0]), b=torch.tensor([100.0]))
    second = dict(a=torch.tensor([1.0, -3.0]), b=torch.tensor([98.0]))
    found = largest_difference(first, second)
    assert (found.absolute, found.relative) == (2.0, 0.25)
    assert (found.where, found.outputs) == ('a', 2)
    assert 'absolute 2.00e+00, relative 2.50e-01' in str(found)
    assert largest_difference(first, first).relative == 0


@pytest.mark.parametrize('value', [math.nan, math.inf])
def test_what_is_not_finite_differs(value):
    good, bad = dict(a=torch.ones(2)), dict(a=torch.tensor([1.0, value]))
    for pair in ((good, bad), (bad, good), (bad, bad)):
        assert largest_difference(*pair).relative == math.inf


def test_outputs_of_zero():
    zero = dict(a=torch.zeros(2))
    assert largest_difference(zero, zero).relative == 0
    off = dict(a=torch.full((2,), 1e-9))
    assert largest_difference(zero, off).relative == math.inf


def test_other_shapes():
    with pytest.raises(ValueError, match=r'\(2,\).*\(3,\)'):
        largest_difference(dict(a=torch.ones(2)), dict(a=torch.ones(3)))


@pytest.mark.parametrize(
    ('model', 'size'),
    [
        (dict(test_cfg=dict(crop_size=(512, 640))), (512, 640)),
        (dict(test_cfg=None, data_preprocessor=dict(size=[64, 32])), (64, 32)),
        (dict(test_cfg=dict(rpn=dict())), (256, 256)),
    ],
)
def test_image_size(model, size):
    assert image_size(model) == size
