"""Estimates of the gradient noise from recorded squared norms. Pure NumPy float64; nothing here costs a training step.

Notation: a batch of n examples is cut into `units` groups of `size` examples each (size 1: the examples themselves). Group
j has the mean gradient G_j, and their mean is the batch's G_B. Recorded are

    deviations   D = sum over groups of |G_j - G_B|^2
    norm_sq      N = |G_B|^2

Then, without bias (McCandlish et al. 2018, arXiv:1812.06162, appendix A.1, with its two batch sizes written out):

    tr(Sigma)^ = size * D / (units - 1)
    |G|^2^     = N - D / (units * (units - 1))

Of batches drawn from N rows without replacement, as an epoch draws them, |G_B|^2 is on average

    |G_N|^2 + tr(Sigma) (1/n - 1/N)

with G_N the gradient of the mean loss of all N rows, and tr(Sigma) the variance among them (divisor N - 1), for which
tr(Sigma)^ has no bias. |G|^2^ is then too low for |G_N|^2 by tr(Sigma)/N, and

    |G_N|^2^   = |G|^2^ + tr(Sigma)^/N

is not. If the weights knew nothing of the rows, |G|^2^ would be without bias for the gradient of all rows there could be,
whose square is lower by as much. Trained weights do: where G_N is nearly zero, |G|^2^ is on average -tr(Sigma)/N.

Their ratio, the noise scale B_simple = tr(Sigma)/|G|^2, is biased and heavy-tailed step by step, and |G|^2^ is often
negative. So numerator and denominator are averaged over steps, each by itself, and only then divided.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[np.float64]]


def deviations(sums: Any, norm_sq: Any, n: Any, split: Any, ghost: Any) -> Any:
    """D from what a step records, entry by entry. NumPy arrays, or tensors while a step is traced.

    Args:
      sums: D itself where `split`; else of the examples' contributions J_i = g_i / n to the batch's gradient, the sum of
        |J_i - mean|^2, or where `ghost` of |J_i|^2.
      norm_sq: N.
      n: examples in the batch; broadcast.
      split, ghost: [entries], bool arrays.
    """
    split, ghost = np.asarray(split, np.float64), np.asarray(ghost, np.float64)
    return (split + (1 - split) * n * n) * sums - ghost * n * norm_sq


def estimate(deviations: Any, norm_sq: Any, units: Any, size: Any = 1) -> tuple[Array, Array]:
    """Unbiased (tr(Sigma), |G|^2) of each step. Arguments broadcast; NaN where a step has fewer than two units.

    Args:
      deviations: sum over units of |G_j - G_B|^2.
      norm_sq: |G_B|^2, of the mean of the same units.
      units: how many there are: the batch size for per-example gradients, else the number of micro-batches.
      size: examples per unit.
    """
    deviations, norm_sq, units, size = np.broadcast_arrays(
        *(np.asarray(a, np.float64) for a in (deviations, norm_sq, units, size))
    )
    between = np.where(units >= 2, units - 1, np.nan)
    return size * deviations / between, norm_sq - deviations / (units * between)


def groups(effective: Any, replicas: Any, split: Any, where: Any = np.where) -> tuple[Any, Any]:
    """(units, size) of a step over several replicas, entry by entry; for tensors give `where=tf.where`.

    Args:
      effective: examples in the batch, in effect: n if all replicas have equally many (`fitcore.noise.over_replicas`).
      replicas: how many have examples.
      split: [entries], whether the replicas are the units, and not the examples; bool.
    """
    return where(split, replicas, effective), where(split, effective / replicas, 1.0)


@dataclass(frozen=True)
class Ratio:
    """Averages of two recorded curves up to each step, and what their ratio can be said to be. Arrays of shape [steps, ...].

    Attributes:
      numerator, denominator: the averages.
      value: their ratio; NaN where it is undetermined.
      low, high: the confidence interval. An infinite bound: the denominator can't be told from zero, the ratio is
        *undetermined*, and only the finite bound, if there is one, is known. Both are infinite where the denominator's interval
        lies wholly below zero: no square does, so that what was averaged is no estimate of one, and says nothing of the ratio.
    """

    numerator: Array
    denominator: Array
    value: Array
    low: Array
    high: Array

    @property
    def undetermined(self) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """Where the denominator's interval contains zero or what is below."""
        return ~(np.isfinite(self.low) & np.isfinite(self.high))


def running_ratio(numerator: Any, denominator: Any, weights: Any, decay: float = 1.0, confidence: float = 0.95) -> Ratio:
    """The ratio of two weighted running averages with Fieller's interval, at each step.

    Each step is taken as an independent measurement; its weight (units - 1) says how good it was. An exponential average
    with bias correction is the same as the average with weights that fade by `decay` per step, which is what is computed.

    Args:
      numerator, denominator: [steps, ...]; entries that are not finite are left out.
      weights: broadcast to the same shape; 0 leaves a step out.
      decay: of a step's weight per step that follows it; 1: plain averages of all steps so far.
      confidence: of the interval.
    """
    a, b, w = (np.array(v, np.float64) for v in np.broadcast_arrays(numerator, denominator, weights))
    bad = ~(np.isfinite(a) & np.isfinite(b) & np.isfinite(w)) | (w <= 0)
    a[bad], b[bad], w[bad] = 0.0, 0.0, 0.0
    # Centred around one value each, so that sums of squares don't cancel.
    a0, b0 = _first(a, w), _first(b, w)
    a, b = np.where(bad, 0.0, a - a0), np.where(bad, 0.0, b - b0)
    sums = np.stack([w, w * a, w * b], 0)
    W, A, B = _fading_sums(sums, decay)
    squares = np.stack([np.ones_like(w), a**2, b**2, a * b, a, b], 0) * w**2
    W2, A2, B2, AB, A1, B1 = _fading_sums(squares, decay**2)
    with np.errstate(divide="ignore", invalid="ignore"):
        mean_a, mean_b = A / W, B / W
        # Variances of the two averages: sum of w_t^2 (a_t - mean)^2 / (sum of w_t)^2, with the small-sample correction.
        share = W2 / W**2  # 1/(effective number of steps)
        unbiased = 1.0 / (W**2 * (1.0 - share))
        vaa = (A2 - 2 * mean_a * A1 + mean_a**2 * W2) * unbiased
        vbb = (B2 - 2 * mean_b * B1 + mean_b**2 * W2) * unbiased
        vab = (AB - mean_a * B1 - mean_b * A1 + mean_a * mean_b * W2) * unbiased
        few = ~(share < 0.5 + 1e-9)  # fewer than two steps: no variance to go by
        t = student_t(0.5 + confidence / 2, np.maximum(1.0 / share - 1.0, 1.0))
        low, high = fieller(mean_a + a0, mean_b + b0, vaa, vbb, vab, t)
        # Ratios that all fit are negative where the denominator's whole interval is: it isn't what it is taken for. See Ratio.
        unknown = few | ((mean_b + b0 <= 0) & np.isfinite(low) & np.isfinite(high))
        low, high = np.where(unknown, -np.inf, low), np.where(unknown, np.inf, high)
        value = np.where(np.isfinite(low) & np.isfinite(high), (mean_a + a0) / (mean_b + b0), np.nan)
    return Ratio(mean_a + a0, mean_b + b0, value, low, high)


def fieller(a: Any, b: Any, vaa: Any, vbb: Any, vab: Any, t: Any) -> tuple[Array, Array]:
    """Fieller's confidence interval for E[a]/E[b] from two estimates, their (co)variances and Student's t.

    Where b can't be told from zero the set of ratios that fit is unbounded: everything (-inf, inf); or, if a can be told
    from zero, all but an interval. Of that one the part above (r, inf) is given when a > 0, the part below when a < 0: the
    noise scale is not negative.
    """
    a, b, vaa, vbb, vab = (np.asarray(v, np.float64) for v in (a, b, vaa, vbb, vab))
    # The ratio r fits if |a - r b| <= t sd(a - r b): p r^2 - 2 q r + s <= 0.
    p, q, s = b**2 - t**2 * vbb, a * b - t**2 * vab, a**2 - t**2 * vaa
    with np.errstate(divide="ignore", invalid="ignore"):
        root = np.sqrt(np.maximum(q**2 - p * s, 0.0))
        far = q + np.copysign(root, q)  # the root's stable form: no difference of near-equal numbers
        r1, r2 = far / p, s / far
        small, large = np.fmin(r1, r2), np.fmax(r1, r2)
        real = q**2 - p * s >= 0
        bounded = p > 0
        low = np.where(bounded, small, np.where(real & (s > 0) & (a > 0), large, -np.inf))
        high = np.where(bounded, large, np.where(real & (s > 0) & (a < 0), small, np.inf))
    return low, high


def student_t(probability: float, freedom: Any) -> Array:
    """Quantile of Student's t for each number of degrees of freedom (>= 1). Relative error below 1e-3 from 5 up."""
    v = np.asarray(freedom, np.float64)
    z = NormalDist().inv_cdf(probability)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    expansion = z + sum(term / v**k for k, term in enumerate(terms, 1))
    exact1 = math.tan(math.pi * (probability - 0.5))
    q = 4 * probability * (1 - probability)
    exact2 = (2 * probability - 1) * math.sqrt(2 / q)
    # Closed forms for one and two degrees; between one and three, where the expansion fails, interpolate in 1/v.
    three = z + sum(term / 3.0**k for k, term in enumerate(terms, 1))
    points = np.array([1 / 3, 1 / 2, 1.0]), np.array([three, exact2, exact1])
    return np.where(v < 3, np.interp(1 / v, *points), expansion)


def lost_digits(deviations: Any, norm_sq: Any, units: Any) -> Array:
    """Decimal digits that D loses when it is computed as a difference, sum |G_j|^2 - units |G_B|^2, as ghost norms do."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.log10(1.0 + np.asarray(units) * np.asarray(norm_sq) / np.maximum(np.asarray(deviations), 0.0))


def _first(values: Array, weights: Array) -> Array:
    """The first value with a weight, per column."""
    if not len(values):
        return np.zeros(values.shape[1:])
    index = np.argmax(weights > 0, axis=0)
    return np.take_along_axis(values, index[None], axis=0)[0]


def _fading_sums(terms: Array, decay: float) -> Array:
    """y[:, t] = terms[:, t] + decay * y[:, t - 1]; `terms` has shape [sums, steps, ...]. In blocks, by matrix products."""
    if decay == 1.0:
        return np.cumsum(terms, axis=1)
    block = 64
    lag = np.arange(block)[:, None] - np.arange(block)[None, :]
    fading = np.where(lag >= 0, decay ** np.maximum(lag, 0), 0.0)
    sums = np.empty_like(terms)
    carried: Any = np.zeros_like(terms[:, 0]) if terms.shape[1] else None
    for start in range(0, terms.shape[1], block):
        part = terms[:, start : start + block]
        length = part.shape[1]
        out = np.einsum("ts,ks...->kt...", fading[:length, :length], part)
        powers: Any = decay ** np.arange(1, length + 1)
        out += np.einsum("t,k...->kt...", powers, carried)
        sums[:, start : start + block] = out
        carried = out[:, -1]
    return sums
