"""The statistics, against scipy and against sums by hand."""

import math

import numpy as np
import pytest
from scipy import stats

from mmflora.study.paired_tests import (
    best_references,
    compare,
    corrected,
    holm,
    paired,
)

OURS = {0: 41.2, 1: 40.1, 2: 43.9, 3: 42.0, 4: 41.7, 5: 44.4}
THEIRS = {0: 40.5, 1: 40.6, 2: 41.0, 3: 41.1, 4: 40.2, 5: 42.3, 9: 0.0}


def test_against_scipy():
    one = compare('t', 'a', 'b', dict(a=OURS, b=THEIRS))
    pairs = [[values[s] for s in range(6)] for values in (OURS, THEIRS)]
    t = stats.ttest_rel(*pairs)
    low, high = t.confidence_interval(0.95)
    assert one.pairs == 6
    assert one.t == pytest.approx(t.pvalue, rel=1e-9)
    assert (one.low, one.high) == pytest.approx((low, high), rel=1e-9)
    assert one.wilcoxon == stats.wilcoxon(*pairs).pvalue
    differences = np.subtract(*pairs)
    assert one.difference == pytest.approx(differences.mean(), rel=1e-12)
    # d_z is the t statistic over the root of n.
    assert one.effect == pytest.approx(t.statistic / math.sqrt(6), rel=1e-9)
    assert math.isnan(one.t_holm)


def test_the_other_way_round_changes_signs_alone():
    one = compare('t', 'a', 'b', dict(a=OURS, b=THEIRS))
    other = compare('t', 'b', 'a', dict(a=OURS, b=THEIRS))
    assert (other.difference, other.effect) == (-one.difference, -one.effect)
    assert (other.low, other.high) == (-one.high, -one.low)
    assert (other.t, other.wilcoxon) == pytest.approx((one.t, one.wilcoxon))


def test_pairs_that_all_differ_alike_or_not_at_all():
    assert paired(np.zeros(3)) == (0, 0, 0, 0, 1, 1)
    mean, low, high, effect, t, wilcoxon = paired(np.full(5, 0.1 + 0.2))
    assert (mean, low, high) == (pytest.approx(0.3),) * 3
    assert (effect, t, wilcoxon) == (math.inf, 0, 0.0625)


@pytest.mark.parametrize('count', [0, 1])
def test_too_few_pairs_say_nothing(count):
    mean, *rest = paired(np.full(count, 2.0))
    assert count == 0 or mean == 2
    assert all(map(math.isnan, rest))


def test_holm():
    # 4 × 0.005, 3 × 0.01, then 2 × 0.03; the last is raised to the one before.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx(
        [0.03, 0.06, 0.06, 0.02]
    )
    assert holm([0.4, 0.6]) == pytest.approx([0.8, 0.8])
    assert holm([0.9, 0.8]) == [1, 1]
    first, missing = holm([0.02, math.nan])
    assert first == 0.02
    assert math.isnan(missing)


def test_a_family_is_corrected_as_one():
    values = dict(a=OURS, b=THEIRS, c={s: v + s % 2 for s, v in OURS.items()})
    family = [compare('t', *pair, values) for pair in ('ab', 'ca', 'cb')]
    assert [one.t_holm for one in corrected(family)] == holm(
        [one.t for one in family]
    )


def test_a_pair_in_both_directions_counts_once():
    """As each method beside the best other one has it."""
    rng = np.random.default_rng(0)
    noise = {name: rng.normal(size=8) for name in 'abcd'}
    means = dict(a=3.0, b=2.4, c=1.2, d=1.8)
    values = {
        name: dict(enumerate(mean + noise[name] - noise[name].mean()))
        for name, mean in means.items()
    }
    best = best_references(values, (), True)
    assert best == dict(a='b', b='a', c='a', d='a')
    found = corrected([compare('t', *pair, values) for pair in best.items()])
    pairs = [('a', 'b'), ('a', 'c'), ('a', 'd')]
    tests = (stats.ttest_rel, 't_holm'), (stats.wilcoxon, 'wilcoxon_holm')
    for test, name in tests:
        p = {
            pair: test(*([*values[one].values()] for one in pair)).pvalue
            for pair in pairs
        }
        # Holm's steps for three, by hand.
        first, second, third = sorted(pairs, key=lambda pair: p[pair])
        expected = {first: min(1, 3 * p[first])}
        expected[second] = max(expected[first], min(1, 2 * p[second]))
        expected[third] = max(expected[second], p[third])
        for one in found:
            pair = tuple(sorted((one.method, one.reference)))
            assert getattr(one, name) == pytest.approx(expected[pair])
    assert len(found) == 4


@pytest.mark.parametrize(
    ('baselines', 'higher', 'expected'),
    [
        ((), True, dict(a='b', b='a', c='a')),
        ((), False, dict(a='c', b='c', c='b')),
        (('b', 'c'), True, dict(a='b', b='c', c='b')),
        (('c',), True, dict(a='c', b='c')),
    ],
)
def test_the_best_other_baseline(baselines, higher, expected):
    values = dict(a={0: 3.0}, b={0: 2.0}, c={0: 1.0}, missing={})
    assert best_references(values, baselines, higher) == expected
