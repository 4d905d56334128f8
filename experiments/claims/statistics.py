"""Effects over seeds with their intervals. Pure NumPy; nothing here knows what was trained."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from experiments.claims.words import short
from fitcore.noise.statistics import student_t


@dataclass(frozen=True)
class Effect:
    """An estimate and its 95 % confidence interval.

    Attributes:
      mean: the estimate.
      low, high: the interval; infinite if there are too few values for one, or values that are not finite.
      n: values (seeds) it is made of.
      unit: what it is measured in; "" for a pure number, "%" for shares that are kept as fractions of 1.
      values: the values themselves, one for each seed.
    """

    mean: float
    low: float
    high: float
    n: int
    unit: str = ""
    values: tuple[float, ...] = ()

    def __str__(self) -> str:
        scale, unit = (100, " %") if self.unit == "%" else (1, f" {self.unit}" if self.unit else "")
        mean, low, high = (short(scale * v) for v in (self.mean, self.low, self.high))
        return f"{mean}{unit} ({low} to {high}; n = {self.n})"


def mean_of(values: Sequence[float] | np.ndarray[Any, Any], unit: str = "") -> Effect:
    """The mean of one value per seed, with Student's interval; needs two values for one."""
    x = np.asarray(values, np.float64)
    n, mean = len(x), float(np.mean(x))
    half = math.inf
    if n > 1 and np.isfinite(x).all():
        half = float(student_t(0.975, n - 1)) * float(np.std(x, ddof=1)) / math.sqrt(n)
    return Effect(mean, mean - half, mean + half, n, unit, tuple(x.tolist()))


def paired(after: Any, before: Any, unit: str = "") -> Effect:
    """What `after` has more than `before`, one value each per seed: Student's t on the differences of the pairs."""
    a, b = np.asarray(after, np.float64), np.asarray(before, np.float64)
    if a.shape != b.shape or a.ndim != 1:
        raise ValueError(f"`after` and `before` must be two lists of the same length. Received: shapes {a.shape} and {b.shape}")
    return mean_of(a - b, unit)


def paired_ratio(after: Any, before: Any) -> Effect:
    """By which factor `after` differs from `before`: geometric mean of the pairs' ratios, t interval on the logarithms.

    Raises:
      ValueError: for values that are not positive.
    """
    a, b = np.asarray(after, np.float64), np.asarray(before, np.float64)
    if not ((a > 0).all() and (b > 0).all()):
        raise ValueError(f"`after` and `before` must be positive. Received: after={after}, before={before}")
    log = paired(np.log(a), np.log(b))
    values = tuple(math.exp(v) for v in log.values)
    return Effect(math.exp(log.mean), math.exp(log.low), math.exp(min(log.high, 700.0)), log.n, "times", values)


def share(happened: Sequence[bool]) -> Effect:
    """How often something happens, from yes or no per seed: the exact interval of Clopper and Pearson (1934)."""
    n, k = len(happened), sum(map(bool, happened))

    def tail(p: float, most: int) -> float:  # P(X <= most) for n throws with probability p
        return sum(math.comb(n, i) * p**i * (1 - p) ** (n - i) for i in range(most + 1))

    low = 0.0 if k == 0 else _solve(lambda p: 1 - tail(p, k - 1), 0.025)
    high = 1.0 if k == n else 1 - _solve(lambda q: tail(1 - q, k), 0.025)
    return Effect(k / n if n else math.nan, low, high, n, "%", tuple(float(h) for h in happened))


def sign_test(differences: Sequence[float]) -> float:
    """Two-sided p-value of the exact sign test: could the differences' signs be a fair coin's? Zeros are left out."""
    signs = [d > 0 for d in differences if d != 0]
    n, k = len(signs), sum(signs)
    tail = sum(math.comb(n, i) for i in range(min(k, n - k) + 1)) / 2**n
    return min(1.0, 2 * tail)


def _solve(rising: Any, target: float) -> float:
    """Where a function that rises on [0, 1] reaches `target`, by bisection."""
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if rising(middle) < target else (low, middle)
    return high
