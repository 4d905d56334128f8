"""`history.noise`: what was measured, as arrays with an entry per measured step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from fitcore.noise import statistics
from fitcore.noise.config import GradientNoise
from fitcore.noise.probe import Entry, Probe

Array = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True)
class NoiseCurve:
    """The gradient noise of a layer, or of the whole model. All arrays have one entry per measured step.

    Attributes:
      trace: tr(Sigma)^, the variance of one example's gradient summed over its entries: unbiased, of this step alone.
      grad_norm_sq: |G|^2^, the squared norm of the true gradient: unbiased, of this step alone, often negative.
      weights: what the step counts in averages: units - 1.
      batch_grad_norm_sq: |G_B|^2, of the batch's own gradient.
      applied_grad_norm_sq: the same with the regularization in it, if there is any.
      lost_digits: decimal digits lost in `trace` to cancellation, 0 where none is; float32 has seven.
    """

    trace: Array
    grad_norm_sq: Array
    weights: Array
    batch_grad_norm_sq: Array
    applied_grad_norm_sq: Array
    lost_digits: Array
    decay: float
    confidence: float

    @cached_property
    def ratio(self) -> statistics.Ratio:
        """Running averages of trace and |G|^2, their ratio B_simple and its interval, at each step."""
        return statistics.running_ratio(self.trace, self.grad_norm_sq, self.weights, self.decay, self.confidence)

    @property
    def scale(self) -> Array:
        """B_simple = tr(Sigma)/|G|^2, in examples: ratio of the running averages; NaN where it is undetermined."""
        return self.ratio.value

    @property
    def interval(self) -> Array:
        """[steps, 2]: the interval of `scale`. An infinite bound: the gradient can't be told from zero."""
        return np.stack([self.ratio.low, self.ratio.high], axis=1)

    @property
    def undetermined(self) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """Where |G|^2 can't be told from zero, so that there is no noise scale to state."""
        return self.ratio.undetermined

    def over(self, steps: slice = slice(None)) -> statistics.Ratio:
        """Plain averages over some of the measured steps, their ratio and interval: scalars in arrays of shape []."""
        ratio = statistics.running_ratio(
            self.trace[steps], self.grad_norm_sq[steps], self.weights[steps], decay=1.0, confidence=self.confidence
        )
        return statistics.Ratio(ratio.numerator[-1], ratio.denominator[-1], ratio.value[-1], ratio.low[-1], ratio.high[-1])


@dataclass(frozen=True)
class FullNoise:
    """The noise weighed by the loss's curvature H. All arrays have one entry per measurement.

    Attributes:
      trace: tr(H Sigma)^ and
      norm: (G^T H G)^, unbiased, of this step alone; G^T H G may be negative where the loss is not convex.
    """

    trace: Array
    norm: Array
    decay: float
    confidence: float

    @cached_property
    def ratio(self) -> statistics.Ratio:
        """Running averages of both, their ratio B_noise in examples and its interval."""
        return statistics.running_ratio(self.trace, self.norm, np.ones(len(self.trace)), self.decay, self.confidence)

    @property
    def scale(self) -> Array:
        """B_noise = tr(H Sigma)/(G^T H G), in examples; NaN where it is undetermined."""
        return self.ratio.value


@dataclass(frozen=True)
class NoiseCurves(NoiseCurve):
    """The whole model's gradient noise, and that of each layer.

    Attributes:
      step: index of the step each entry belongs to.
      batch_size: examples in each step's batch.
      layers: the same for each layer with weights, by the layer's path; empty without `per_layer`.
      how: how each weight was measured, by its path.
      evidence: with `evidence`, this step's stopping criterion (`fitcore.noise.evidence`); else None.
      hessian: what the full noise scale is made of, with `hessian_every`.
      hessian_step: index of the step each of its entries belongs to.
    """

    step: np.ndarray[Any, np.dtype[np.int64]]
    batch_size: Array
    layers: Mapping[str, NoiseCurve]
    how: Mapping[str, str]
    evidence: Array | None
    hessian: FullNoise | None
    hessian_step: np.ndarray[Any, np.dtype[np.int64]]

    def per_step(self, first_step: int, steps: int) -> dict[str, Array]:
        """The whole model's curves with an entry for every step from `first_step` on, NaN where nothing was measured."""
        found = {}
        for name in ("trace", "grad_norm_sq", "scale", "evidence"):
            if getattr(self, name) is not None:
                found[f"noise/{name}"] = np.full(steps, np.nan)
                found[f"noise/{name}"][self.step - first_step] = getattr(self, name)
        return found


def curves(rows: Array, first_step: int, probe: Probe, config: GradientNoise) -> NoiseCurves:
    """What `rows`, recorded by `probe` from step `first_step` on, say; `config` says how to average.

    Steps that were not measured are left out.
    """
    rows = rows[:, None] if rows.ndim == 1 else rows  # nothing but the batch's size
    hessian_step = np.empty(0, np.int64)
    hessian = None
    if config.hessian_every:
        rows, curved = rows[:, :-3], rows[:, -3:]
        there = curved[:, 0] > 0
        hessian_step = first_step + np.flatnonzero(there)
        hessian = FullNoise(curved[there, 1], curved[there, 2], config.decay, config.confidence)
    measured = rows[:, 0] > 0
    rows = rows[measured]
    evidence = None
    if config.evidence:
        rows, evidence = rows[:, :-1], rows[:, -1]
    n = rows[:, 0]
    count = len(probe.entries)
    width = 3 if probe.regularized else 2
    table = rows[:, 1:].reshape(len(rows), width, count) if len(rows) else np.empty((0, width, count))
    by_layer: dict[str, list[int]] = {}
    for k, entry in enumerate(probe.entries):
        by_layer.setdefault(entry.layer, []).append(k)
    layers = {layer: _curve(table, n, probe.entries, ks, config) for layer, ks in by_layer.items()} if config.per_layer else {}
    whole = _curve(table, n, probe.entries, range(count), config)
    return NoiseCurves(
        **vars(whole),
        hessian=hessian,
        hessian_step=hessian_step,
        step=first_step + np.flatnonzero(measured),
        batch_size=n,
        layers=layers,
        how=dict(probe.how),
        evidence=evidence,
    )


def _curve(table: Array, n: Array, entries: Sequence[Entry], which: Sequence[int], config: GradientNoise) -> NoiseCurve:
    """The sum of some entries: traces and squared norms add up."""
    zero = np.zeros(len(n))
    trace, grad, batch, applied, lost, weights = zero.copy(), zero.copy(), zero.copy(), zero.copy(), zero.copy(), None
    for k in which:
        units, size = (config.splits, n // config.splits) if entries[k].split else (n, 1)
        units = np.where(np.asarray(size) >= 1, units, 0)
        d, big = table[:, 0, k], table[:, 1, k]
        t, g = statistics.estimate(d, big, units, size)
        trace, grad, batch, applied = trace + t, grad + g, batch + big, applied + table[:, -1, k]
        if entries[k].ghost:
            lost = np.fmax(lost, statistics.lost_digits(d, big, units))
        weights = np.broadcast_to(units - 1.0, n.shape) if weights is None else np.minimum(weights, units - 1.0)
    weights = np.maximum(zero if weights is None else weights, 0.0)
    return NoiseCurve(trace, grad, weights, batch, applied, lost, config.decay, config.confidence)
