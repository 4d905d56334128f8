"""`history.noise`: what was measured, as arrays with an entry per measured step."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from fitcore.noise import statistics
from fitcore.noise.config import GradientNoise
from fitcore.noise.probe import Probe

Array = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True)
class NoiseCurve:
    """The gradient noise of a layer, or of the whole model. All arrays have one entry per measured step.

    Attributes:
      trace: tr(Sigma)^, the variance of one example's gradient summed over its entries: unbiased, of this step alone.
      grad_norm_sq: |G|^2^, the squared norm of the true gradient: unbiased, of this step alone, often negative. The true
        gradient is that of all examples there could be, for weights that knew none of them; see `data_grad_norm_sq`.
      weights: what the step counts in averages: units - 1.
      batch_grad_norm_sq: |G_B|^2, of the batch's own gradient.
      applied_grad_norm_sq: the same with the regularization in it, if there is any.
      lost_digits: decimal digits lost in `trace` to cancellation, 0 where none is; float32 has seven.
      decay, confidence: as in `GradientNoise`.
      population: N, rows in the training data; infinite if unknown.
    """

    trace: Array
    grad_norm_sq: Array
    weights: Array
    batch_grad_norm_sq: Array
    applied_grad_norm_sq: Array
    lost_digits: Array
    decay: float
    confidence: float
    population: float

    @property
    def data_grad_norm_sq(self) -> Array:
        """|G_N|^2^, the squared norm of the gradient of the training data's mean loss, which is what training brings to zero:
        unbiased for batches drawn without replacement. It is `grad_norm_sq` + `trace`/N (`fitcore.noise.statistics`), and
        `grad_norm_sq` itself where N isn't known: NumPy arrays and tensors have N rows, other sources don't say."""
        return self.grad_norm_sq + self.trace / self.population

    @cached_property
    def ratio(self) -> statistics.Ratio:
        """Running averages of trace and `data_grad_norm_sq`, their ratio B_simple and its interval, at each step."""
        return statistics.running_ratio(self.trace, self.data_grad_norm_sq, self.weights, self.decay, self.confidence)

    @property
    def scale(self) -> Array:
        """B_simple = tr(Sigma)/|G_N|^2, in examples: ratio of the running averages; NaN where it is undetermined."""
        return self.ratio.value

    @property
    def interval(self) -> Array:
        """[steps, 2]: the interval of `scale`. An infinite bound: the gradient can't be told from zero."""
        return np.stack([self.ratio.low, self.ratio.high], axis=1)

    @property
    def undetermined(self) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """Where |G_N|^2 can't be told from zero, so that there is no noise scale to state."""
        return self.ratio.undetermined

    def over(self, steps: slice = slice(None)) -> statistics.Ratio:
        """Plain averages over some of the measured steps, their ratio and interval: scalars in arrays of shape []."""
        ratio = statistics.running_ratio(
            self.trace[steps], self.data_grad_norm_sq[steps], self.weights[steps], decay=1.0, confidence=self.confidence
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
      how: how each weight was measured, by its path.
      evidence: with `evidence`, this step's stopping criterion (`fitcore.noise.evidence`); else None.
      hessian: what the full noise scale is made of, with `hessian_every`.
      hessian_step: index of the step each of its entries belongs to.
    """

    step: np.ndarray[Any, np.dtype[np.int64]]
    batch_size: Array
    how: Mapping[str, str]
    evidence: Array | None
    hessian: FullNoise | None
    hessian_step: np.ndarray[Any, np.dtype[np.int64]]
    _columns: _Columns = field(repr=False)

    @cached_property
    def layers(self) -> Mapping[str, NoiseCurve]:
        """The same for each layer with weights, by the layer's path; empty without `per_layer`."""
        return self._columns.by_layer()

    def per_step(self, first_step: int, steps: int) -> dict[str, Array]:
        """The whole model's curves with an entry for every step from `first_step` on, NaN where nothing was measured."""
        found = {}
        for name in ("batch_size", "trace", "grad_norm_sq", "scale", "evidence"):
            if getattr(self, name) is not None:
                found[f"noise/{name}"] = np.full(steps, np.nan)
                found[f"noise/{name}"][self.step - first_step] = getattr(self, name)
        return found


def curves(rows: Array, first_step: int, probe: Probe, config: GradientNoise, population: float = math.inf) -> NoiseCurves:
    """What `rows`, recorded by `probe` from step `first_step` on, say; `config` says how to average, `population` how many
    rows the batches were drawn from.

    Steps that were not measured are left out.
    """
    rows = rows[:, None] if rows.ndim == 1 else rows  # nothing but the batch's size
    if not len(rows):  # training has ended in an error before its first step: as wide as a row without a weight can be
        rows = np.empty((0, probe.head + 4))
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
    columns = _Columns(rows, probe, config, population)
    return NoiseCurves(
        **vars(columns.summed(slice(None))),
        hessian=hessian,
        hessian_step=hessian_step,
        step=first_step + np.flatnonzero(measured),
        batch_size=rows[:, 0],
        how=dict(probe.how),
        evidence=evidence,
        _columns=columns,
    )


class _Columns:
    """What was recorded of each weight, [steps, weights] each."""

    def __init__(self, rows: Array, probe: Probe, config: GradientNoise, population: float) -> None:
        self._config, self._population = config, population
        self._entries, self._n = probe.entries, rows[:, 0]
        table = rows[:, probe.head :].reshape(len(rows), 3 if probe.regularized else 2, len(probe.entries))
        split, ghost = probe.kinds
        examples = self._n[:, None]
        self._big, self._applied = table[:, 1], table[:, -1]
        if probe.replicas > 1:
            d, self._units, size = table[:, 0], *statistics.groups(rows[:, 1:2], rows[:, 2:3], split)
        else:
            size = np.where(split, examples // config.splits, 1)
            self._units = np.where(split, np.where(size >= 1, config.splits, 0), examples)
            d = statistics.deviations(table[:, 0], self._big, examples, split, ghost)
        self._trace, self._grad = statistics.estimate(d, self._big, self._units, size)
        self._exact, self._cancelled = np.where(split, 0.0, d), np.where(ghost, self._big, 0.0)

    def summed(self, which: Any) -> NoiseCurve:
        """The sum over some weights: traces and squared norms add up."""
        trace, grad, big, applied, exact, cancelled = (
            column[:, which].sum(axis=1)
            for column in (self._trace, self._grad, self._big, self._applied, self._exact, self._cancelled)
        )
        lost = np.fmax(statistics.lost_digits(exact, cancelled, self._n), 0.0)
        weights = np.min(self._units[:, which] - 1.0, axis=1, initial=np.inf)
        weights = np.where(np.isfinite(weights), np.maximum(weights, 0.0), 0.0)
        about = self._config.decay, self._config.confidence, self._population
        return NoiseCurve(trace, grad, weights, big, applied, lost, *about)

    def by_layer(self) -> dict[str, NoiseCurve]:
        places: dict[str, list[int]] = {}
        for k, entry in enumerate(self._entries if self._config.per_layer else ()):
            places.setdefault(entry.layer, []).append(k)
        return {layer: self.summed(which) for layer, which in places.items()}
