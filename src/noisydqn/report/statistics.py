"""Statistics of runs: estimates with intervals, from one return for each seed.

Functions are pure. Randomness is an explicit `numpy.random.Generator`. A *stratum* holds what is
resampled together: the runs of one variant in one environment.

Sources: Agarwal et al. 2021, "Deep Reinforcement Learning at the Edge of the Statistical
Precipice" (interquartile mean, stratified bootstrap, probability of improvement, performance
profiles); Patterson et al. 2024, "Empirical Design in Reinforcement Learning" (tolerance
intervals, paired seeds).
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

Array = np.ndarray
Strata = Sequence[Array]

LEVEL = 0.95
"""Confidence level of all intervals."""
RESAMPLES = 2_000
"""Resamples of a bootstrap. The Monte Carlo error of an interval's end is then about a
twenty-fifth of a standard error."""
MIN_SEEDS = 5
"""Fewest seeds that get an interval. Resampling fewer gives too few distinct values: with four
seeds, even the interval between the least and the largest misses the median in one case of
eight."""
BLOCK = 2**22
"""Numbers that a bootstrap holds at once."""


class Interval(NamedTuple):
    """An estimate and its confidence interval; NaN where seeds are too few for one."""

    estimate: float
    low: float = math.nan
    high: float = math.nan

    @property
    def known(self) -> bool:
        """Whether there is an interval."""
        return not (math.isnan(self.low) or math.isnan(self.high))

    def excludes(self, value: float) -> bool:
        """Tell whether there is an interval, and `value` lies outside of it."""
        return self.known and not self.low <= value <= self.high


# Estimates of arrays, over the last axis but for curves


def interquartile_mean(values: Array, axis: int = -1) -> Array:
    """Return the mean of the middle half: the quarters at both ends are left out.

    Of n values, floor(n / 4) are left out at each end (Agarwal et al. 2021, section 4.3; as
    `scipy.stats.trim_mean(values, 0.25)`).

    Args:
        values: [..., n, ...].
        axis: of the n values.
    """
    ordered = np.sort(values, axis)
    number = ordered.shape[axis]
    cut = number // 4
    return ordered.take(range(cut, number - cut), axis).mean(axis)


def improvement(x: Array, y: Array) -> Array:
    """Return the probability that a run of X is better than one of Y; ties count one half.

    It is Mann and Whitney's U divided by the number of pairs (Agarwal et al. 2021, equation 2).

    Args:
        x: [..., n].
        y: [..., m].
    """
    # Not a difference: both may be infinite.
    better, worse = x[..., :, None] > y[..., None, :], x[..., :, None] < y[..., None, :]
    return (1 + better.mean((-2, -1)) - worse.mean((-2, -1))) / 2


def mean_over_time(x: Array, y: Array) -> float:
    """Return the area under a curve, divided by the length from 0 to its end.

    The curve is linear between its points and constant before the first.

    Args:
        x: [P], increasing, from 0 or later.
        y: [P].
    """
    if x[-1] <= 0:
        return float(y[-1])
    area = y[0] * x[0] + np.trapezoid(y, x)
    return float(area / x[-1])


def profile(scores: Array, thresholds: Array) -> Array:
    """Return the share of runs above each threshold (Agarwal et al. 2021, section 4.2).

    Args:
        scores: [..., n].
        thresholds: [T].

    Returns:
        [..., T].
    """
    return (scores[..., :, None] > thresholds).mean(-2)


# Intervals


def bootstrap(
    strata: Strata,
    statistic: Callable[[list[Array]], Array],
    rng: np.random.Generator,
    resamples: int = RESAMPLES,
) -> tuple[Array, Array, Array]:
    """Estimate a statistic, with a percentile interval from a stratified bootstrap.

    In each resample, every stratum is sampled from itself with replacement (Agarwal et al. 2021,
    section 4.1).

    Args:
        strata: of shape [n, ...], each with its own n.
        statistic: maps arrays [R, n, ...], one for each stratum, to the statistics [R, ...] of R
            samples.
        rng: chooses the resamples.
        resamples: number of resamples.

    Returns:
        The estimate and the ends of its interval, all of the statistic's shape.
    """
    estimate = statistic([stratum[None] for stratum in strata])[0]
    per_resample = max(sum(stratum.size for stratum in strata), estimate.size, 1)
    block = max(BLOCK // per_resample, 1)
    parts = list[Array]()
    for start in range(0, resamples, block):
        number = min(block, resamples - start)
        parts.append(statistic([s[rng.integers(len(s), size=(number, len(s)))] for s in strata]))
    low, high = _quantiles(np.concatenate(parts))
    return estimate, low, high


def _quantiles(values: Array) -> tuple[Array, Array]:
    """Return the two ends of a percentile interval over the first axis."""
    tail = (1 - LEVEL) / 2
    # Between infinity and a number there is nothing to interpolate.
    method = "linear" if np.isfinite(values).all() else "inverted_cdf"
    low, high = np.quantile(values, [tail, 1 - tail], axis=0, method=method)
    return low, high


def interval(
    strata: Strata, statistic: Callable[[list[Array]], Array], rng: np.random.Generator
) -> Interval:
    """Estimate a number as `bootstrap` does; without an interval if a stratum is too small."""
    if min(map(len, strata)) < MIN_SEEDS:
        return Interval(float(statistic([stratum[None] for stratum in strata])[0]))
    return Interval(*map(float, bootstrap(strata, statistic, rng)))


def aggregate(strata: Strata, rng: np.random.Generator) -> Interval:
    """Return the interquartile mean over the runs of all strata."""
    return interval(strata, lambda samples: interquartile_mean(np.concatenate(samples, 1)), rng)


def probability_of_improvement(x: Strata, y: Strata, rng: np.random.Generator) -> Interval:
    """Return the probability that a run of X is better than one of Y, averaged over environments.

    Where every run of one is better, resampling knows no other outcome. Then the interval is that
    of as many successes as there are disjoint pairs (Clopper and Pearson 1934): with ten seeds, at
    least 0.69.

    Args:
        x: the returns of X in each environment.
        y: those of Y in the same environments.
        rng: chooses the resamples.
    """
    number = len(x)

    def statistic(samples: list[Array]) -> Array:
        pairs = zip(samples[:number], samples[number:], strict=True)
        return np.mean([improvement(one, other) for one, other in pairs], 0)

    found = interval([*x, *y], statistic, rng)
    least = ((1 - LEVEL) / 2) ** (1 / sum(map(min, map(len, x), map(len, y))))
    if found.known and found.estimate == 1:
        return found._replace(low=least)
    if found.known and found.estimate == 0:
        return found._replace(high=1 - least)
    return found


def difference_of_medians(
    x: Array, y: Array, rng: np.random.Generator, *, paired: bool
) -> Interval:
    """Return the median of X minus that of Y.

    Args:
        x: [n].
        y: [m]; if paired, m = n and equal places are runs of the same seed.
        rng: chooses the resamples.
        paired: whether a resample takes both runs of a seed or none.
    """
    if paired:

        def of_pairs(samples: list[Array]) -> Array:
            medians = np.median(samples[0], 1)
            return medians[:, 0] - medians[:, 1]

        return interval([np.stack([x, y], 1)], of_pairs, rng)
    return interval([x, y], lambda z: np.median(z[0], 1) - np.median(z[1], 1), rng)


class Tolerance(NamedTuple):
    """A range that contains a share of all runs, with confidence `LEVEL`."""

    low: float
    high: float
    share: float


def tolerance_interval(values: Array, share: float = 0.9) -> Tolerance:
    """Return the range that contains at least a share of all runs, with confidence `LEVEL`.

    It is free of assumptions on the distribution: the share between the k-th least and the k-th
    largest of n values has the distribution Beta(n - 2k + 1, 2k) (Wilks 1941). The largest k that
    suffices is taken. If not even the whole range suffices, the whole range is returned with the
    share that it does contain: 61% with 10 seeds.

    Args:
        values: [n], of at least two runs.
        share: that is wanted.
    """
    from scipy.stats import beta

    ordered, number = np.sort(values), len(values)
    sufficient = [
        k for k in range(1, (number + 1) // 2) if beta.sf(share, number - 2 * k + 1, 2 * k) >= LEVEL
    ]
    k = max(sufficient, default=1)
    contained = share if sufficient else float(beta.ppf(1 - LEVEL, number - 1, 2))
    return Tolerance(float(ordered[k - 1]), float(ordered[-k]), contained)


def rank_test(x: Array, y: Array) -> float:
    """Return the two-sided p-value of Mann and Whitney's test that X and Y do not differ.

    It is exact for few runs without ties; otherwise normal, with the correction for ties.
    """
    from scipy.stats import mannwhitneyu

    if np.ptp(np.concatenate([x, y])) == 0:
        return 1.0
    return float(mannwhitneyu(x, y, alternative="two-sided", method="auto").pvalue)


# Times to a threshold, where some runs end before they reach it


def survival(times: Array, reached: Array) -> tuple[Array, Array]:
    """Return the estimate of Kaplan and Meier (1958): the share that has not reached the threshold.

    Args:
        times: [..., n] when each run reached the threshold or, if it never did, ended.
        reached: [..., n] whether it did.

    Returns:
        The times in order [..., n], and the share from each of them on [..., n].
    """
    # At equal times, those that reach the threshold come before those that end without it.
    order = np.lexsort((~reached, times))
    times, reached = np.take_along_axis(times, order, -1), np.take_along_axis(reached, order, -1)
    at_risk = np.arange(times.shape[-1], 0, -1)
    return times, np.cumprod(1 - reached / at_risk, -1)


def median_time(times: Array, reached: Array) -> Array:
    """Return the time at which half of the runs have reached the threshold; infinity if never.

    Runs that ended before count as long as they ran. Shapes as in `survival`; returns [...].
    """
    ordered, share = survival(times, reached)
    below = share <= 0.5 + 1e-12
    first = np.argmax(below, -1)
    found = np.take_along_axis(ordered, first[..., None], -1)[..., 0]
    return np.where(below.any(-1), found, np.inf)


def restricted_mean_time(times: Array, reached: Array, horizon: float) -> Array:
    """Return the mean time to the threshold, where no run counts with more than `horizon`.

    It is the area under the survival curve up to the horizon (Royston and Parmar 2013). Shapes as
    in `survival`; returns [...].
    """
    ordered, share = survival(times, reached)
    edges = np.minimum(ordered, horizon)
    before = np.concatenate([np.ones_like(share[..., :1]), share[..., :-1]], -1)
    steps = np.diff(edges, axis=-1, prepend=0)
    return (before * steps).sum(-1) + share[..., -1] * (horizon - edges[..., -1])


def time_intervals(
    times: Array, reached: Array, horizon: float, rng: np.random.Generator
) -> tuple[Interval, Interval]:
    """Estimate the median and the restricted mean of the time to a threshold.

    Args:
        times: [n] as in `survival`.
        reached: [n].
        horizon: of the restricted mean.
        rng: chooses the resamples.
    """
    pairs = np.stack([times, reached.astype(float)], 1)

    def median(samples: list[Array]) -> Array:
        return median_time(samples[0][..., 0], samples[0][..., 1] > 0)

    def mean(samples: list[Array]) -> Array:
        return restricted_mean_time(samples[0][..., 0], samples[0][..., 1] > 0, horizon)

    return interval([pairs], median, rng), interval([pairs], mean, rng)
