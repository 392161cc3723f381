import pytest
import torch
from torch import nn

from mmflora.checkpoint.keys import (
    compare_keys,
    float_shapes,
    state_shapes,
)

EXPECTED = {'a.weight': (4, 3), 'a.bias': (4,), 'norm.weight': (4,)}


def offered(**changes):
    renamed = {key.replace('__', '.'): value for key, value in changes.items()}
    merged = {**EXPECTED, **renamed}
    return {key: shape for key, shape in merged.items() if shape is not None}


def test_equal_keys_leave_an_empty_report():
    report = compare_keys(offered(), EXPECTED)
    assert not report
    assert str(report) == ''


def test_each_difference_is_listed():
    report = compare_keys(
        offered(a__bias=None, b__weight=(2,), a__weight=(3, 4)), EXPECTED
    )
    assert report.missing == ['a.bias']
    assert report.unexpected == ['b.weight']
    assert report.mismatched == {'a.weight': ((3, 4), (4, 3))}
    text = str(report)
    assert 'missing in the file: a.bias' in text
    assert 'unknown to the model: b.weight' in text
    assert 'a.weight (3, 4) in the file, (4, 3) in the model' in text


@pytest.mark.parametrize('pattern', [r'norm\.weight', r'norm\..*', '.*'])
def test_optional_keys_may_be_missing(pattern):
    assert not compare_keys(offered(norm__weight=None), EXPECTED, [pattern])


@pytest.mark.parametrize('pattern', [r'head\.weight', r'head\..*'])
def test_ignored_keys_may_be_unknown(pattern):
    assert not compare_keys(
        offered(head__weight=(9,)), EXPECTED, ignored=[pattern]
    )


def test_ignored_and_optional_keys_must_still_fit_in_shape():
    report = compare_keys(offered(norm__weight=(5,)), EXPECTED, ['.*'], ['.*'])
    assert list(report.mismatched) == ['norm.weight']


def test_patterns_match_whole_names():
    report = compare_keys(offered(norm__weight=None), EXPECTED, ['norm'])
    assert report.missing == ['norm.weight']


def test_patterns_may_be_an_iterator():
    patterns = iter([r'norm\..*', r'a\.bias'])
    assert not compare_keys({'a.weight': (4, 3)}, EXPECTED, optional=patterns)


def test_long_lists_are_cut_and_counted():
    report = compare_keys({}, {f'key{i:02d}': (1,) for i in range(40)})
    text = str(report)
    assert 'key11' in text
    assert 'key12' not in text
    assert '40 in all' in text


def test_shapes_count_weights_and_float_buffers():
    norm = nn.BatchNorm2d(3)
    assert set(state_shapes(norm)) == {
        'weight',
        'bias',
        'running_mean',
        'running_var',
    }
    assert float_shapes({'f': torch.ones(2), 'i': torch.ones(2).long()}) == {
        'f': (2,)
    }
