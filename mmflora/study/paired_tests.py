"""Paired comparisons of methods over seeds."""

import math
import statistics
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import stats


@dataclass(frozen=True)
class Comparison:
    """A method beside another, over the seeds that both have.

    Attributes:
        column: The task, or what else the values are of.
        method: The method.
        reference: What it is compared with.
        pairs: How many seeds both have.
        difference: The mean difference, method minus reference.
        low: The lower end of its 95 % interval (Student's t).
        high: The upper end.
        effect: Cohen's d_z: the mean difference over the standard deviation
            of the differences.
        t: The p value of the paired t-test, two-sided.
        wilcoxon: That of Wilcoxon's signed-rank test, two-sided.
        t_holm: ``t`` with Holm's correction over a family of comparisons.
        wilcoxon_holm: ``wilcoxon``, likewise.
    """

    column: str
    method: str
    reference: str
    pairs: int
    difference: float
    low: float
    high: float
    effect: float
    t: float
    wilcoxon: float
    t_holm: float = math.nan
    wilcoxon_holm: float = math.nan


def compare(
    column: str,
    method: str,
    reference: str,
    values: Mapping[str, Mapping[int, float]],
) -> Comparison:
    """Compare two methods.

    Args:
        column: What the values are of.
        method: The method.
        reference: What it is compared with.
        values: By method, the value of each seed.
    """
    ours, theirs = values[method], values[reference]
    seeds = sorted(ours.keys() & theirs.keys())
    differences = np.array([ours[seed] - theirs[seed] for seed in seeds])
    return Comparison(
        column, method, reference, len(seeds), *paired(differences)
    )


def paired(
    differences: np.ndarray,
) -> tuple[float, float, float, float, float, float]:
    """Return mean, interval, d_z and two p values of paired differences.

    What a single pair cannot say is NaN.  Where all differences are zero the
    effect is 0 and both p values are 1.
    """
    nan = math.nan
    if not len(differences):
        return (nan,) * 6
    mean = float(differences.mean())
    if len(differences) < 2:
        return mean, nan, nan, nan, nan, nan
    if not differences.any():
        return 0.0, 0.0, 0.0, 0.0, 1.0, 1.0
    deviation = float(differences.std(ddof=1))
    # Rounding leaves a little of equal differences.
    if deviation < 1e-12 * abs(mean):
        deviation = 0.0
    error = deviation / math.sqrt(len(differences))
    half = float(stats.t.ppf(0.975, len(differences) - 1)) * error
    effect = mean / deviation if deviation else math.copysign(math.inf, mean)
    t = (
        2 * float(stats.t.sf(abs(mean / error), len(differences) - 1))
        if (error)
        else 0.0
    )
    with warnings.catch_warnings():
        # Of ties, which make the p value an approximation.
        warnings.simplefilter('ignore')
        wilcoxon = float(stats.wilcoxon(differences).pvalue)
    return mean, mean - half, mean + half, effect, t, wilcoxon


def holm(values: Sequence[float]) -> list[float]:
    """Return p values with Holm's correction (1979); NaN stays NaN.

    The i-th smallest of m becomes the maximum over j <= i of
    (m - j + 1) p_(j), at most 1.
    """
    order = sorted(
        (i for i, value in enumerate(values) if not math.isnan(value)),
        key=lambda i: values[i],
    )
    corrected, highest = [math.nan] * len(values), 0.0
    for rank, index in enumerate(order):
        highest = max(highest, (len(order) - rank) * values[index])
        corrected[index] = min(highest, 1.0)
    return corrected


def corrected(family: Sequence[Comparison]) -> list[Comparison]:
    """Return comparisons with Holm's correction, as one family.

    Two methods that are compared in both directions are one test, not two.
    """
    pairs = [frozenset((one.method, one.reference)) for one in family]
    tests = dict(zip(pairs, family, strict=True))
    t = holm([one.t for one in tests.values()])
    wilcoxon = holm([one.wilcoxon for one in tests.values()])
    by_pair = dict(zip(tests, zip(t, wilcoxon, strict=True), strict=True))
    return [
        replace(one, t_holm=by_pair[pair][0], wilcoxon_holm=by_pair[pair][1])
        for one, pair in zip(family, pairs, strict=True)
    ]


def best_mean(
    values: Mapping[str, Mapping[int, float]],
    names: Iterable[str],
    higher_is_better: bool,
) -> str | None:
    """Return the name with the best mean over seeds, the first of equal ones.

    Args:
        values: By method, the value of each seed.
        names: Those to choose from; without a value they are left out.
        higher_is_better: What better means.
    """
    means = {
        name: statistics.fmean(values[name].values())
        for name in names
        if values.get(name)
    }
    pick = max if higher_is_better else min
    return pick(means, key=lambda name: means[name]) if means else None


def best_references(
    values: Mapping[str, Mapping[int, float]],
    baselines: Sequence[str],
    higher_is_better: bool,
) -> dict[str, str]:
    """Return for each method the best other one of the baselines.

    Args:
        values: By method, the value of each seed.
        baselines: Their names; empty for all methods.
        higher_is_better: What better means.
    """
    best = {}
    for name in filter(values.get, values):
        others = (other for other in baselines or values if other != name)
        reference = best_mean(values, others, higher_is_better)
        if reference:
            best[name] = reference
    return best
