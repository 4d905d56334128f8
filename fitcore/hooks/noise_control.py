"""Rules that follow the gradient noise inside the compiled loop: batch size, learning rate, a stop.

    fitcore.fit(model, x, y, hooks=[fitcore.InLoop(fitcore.NormTest(theta=1.0, most=1024))])

Each keeps running sums of the unbiased estimates of tr(Sigma) and |G|^2 of each step, weighted by n - 1 and fading by `decay`
(0: the last step's alone), and takes ratios of the sums, not of single steps, which are biased. A step that was not measured
changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from fitcore.hooks.in_loop import LoopState, Outcome, StepSeen

TRACE, NORM_SQ, ROWS = "noise/trace", "noise/grad_norm_sq", "noise/batch_size"


@dataclass(frozen=True)
class NormTest:
    """The batch grows as soon as its gradient fails the norm test: tr(Sigma)/n <= theta^2 |G_B|^2.

    It grows to the n that would pass, and never shrinks (Byrd, Chin, Nocedal, Wu 2012, Math. Program. 134, section 3).

    Args:
      theta: bound on the noise relative to the gradient's norm, above 0.
      most: rows in a batch at most.
      decay: of the running sums.
    """

    theta: float
    most: int
    decay: float = 0.9
    needs = (TRACE, NORM_SQ, ROWS)
    changes = ("batch_size",)

    def __post_init__(self) -> None:
        _check(self.decay, theta=self.theta, most=self.most)

    def start(self) -> dict[str, float]:
        return {"trace": 0.0, "batch_sq": 0.0, "rows": 0.0}

    def after_step(self, state: LoopState, seen: StepSeen) -> Outcome:
        trace, n = seen.values[TRACE], seen.values[ROWS]
        sums = _faded(state, seen, self.decay, trace=trace, batch_sq=seen.values[NORM_SQ] + trace / n)
        passing = tf.math.ceil(_ratio(sums["trace"], self.theta**2 * sums["batch_sq"]))
        rows = tf.maximum(tf.maximum(state["rows"], seen.examples), tf.where(passing > 0, passing, 0 * passing))
        rows = tf.minimum(rows, tf.constant(self.most, tf.float64))
        return Outcome({**sums, "rows": rows}, settings={"batch_size": rows})


@dataclass(frozen=True)
class CABS:
    """The batch size that couples noise and learning rate: n = learning rate * tr(Sigma)/loss.

    Balles, Romero, Hennig 2017 (arXiv:1612.05086), for a loss whose lowest value is about 0, and plain SGD.

    Args:
      least, most: rows in a batch.
      decay: of the running sums.
    """

    least: int
    most: int
    decay: float = 0.95
    needs = (TRACE, ROWS, "step/loss", "step/learning_rate")
    changes = ("batch_size",)

    def __post_init__(self) -> None:
        _check(self.decay)
        if not 2 <= self.least <= self.most:
            raise ValueError(f"`least` must be between 2 and `most`. Received: least={self.least}, most={self.most}")

    def start(self) -> dict[str, float]:
        return {"trace": 0.0, "loss": 0.0, "rows": float(self.least)}

    def after_step(self, state: LoopState, seen: StepSeen) -> Outcome:
        sums = _faded(state, seen, self.decay, trace=seen.values[TRACE], loss=seen.values["step/loss"])
        wanted = tf.round(seen.values["step/learning_rate"] * _ratio(sums["trace"], sums["loss"]))
        rows = tf.clip_by_value(wanted, tf.cast(self.least, tf.float64), tf.cast(self.most, tf.float64))
        rows = tf.where(tf.math.is_nan(wanted), state["rows"], rows)
        return Outcome({**sums, "rows": rows}, settings={"batch_size": rows})


@dataclass(frozen=True)
class NoiseLearningRate:
    """The learning rate that suits the noise: highest/(1 + B/n), with B = tr(Sigma)/|G|^2 and n rows in the batch.

    McCandlish et al. 2018 (arXiv:1812.06162, section 2.2, with B_simple for B_noise). While the sums' |G|^2 is not above zero
    the rate stays what it is.

    Args:
      highest: the rate for a batch without noise, above 0.
      decay: of the running sums.
    """

    highest: float
    decay: float = 0.99
    needs = (TRACE, NORM_SQ, ROWS, "step/learning_rate")
    changes = ("learning_rate",)

    def __post_init__(self) -> None:
        _check(self.decay, highest=self.highest)

    def start(self) -> dict[str, float]:
        return {"trace": 0.0, "norm_sq": 0.0}

    def after_step(self, state: LoopState, seen: StepSeen) -> Outcome:
        sums = _faded(state, seen, self.decay, trace=seen.values[TRACE], norm_sq=seen.values[NORM_SQ])
        rate = self.highest / (1 + _ratio(sums["trace"], sums["norm_sq"]) / seen.examples)
        known = tf.logical_and(sums["norm_sq"] > 0, tf.math.is_finite(rate))
        return Outcome(sums, settings={"learning_rate": tf.where(known, rate, seen.values["step/learning_rate"])})


@dataclass(frozen=True)
class LowSignal:
    """Stops once the batch gradient's signal-to-noise ratio n |G|^2/tr(Sigma) has been below `threshold` for some steps.

    Args:
      threshold: the ratio; at 1 the batch has as many rows as the noise scale B = tr(Sigma)/|G|^2.
      patience: measured steps in a row.
      after: measured steps before the first that counts.
      decay: of the running sums.
    """

    threshold: float
    patience: int = 1
    after: int = 0
    decay: float = 0.99
    needs = (TRACE, NORM_SQ, ROWS)
    changes = ()

    def __post_init__(self) -> None:
        _check(self.decay, threshold=self.threshold, patience=self.patience)

    def start(self) -> dict[str, float]:
        return {"trace": 0.0, "norm_sq": 0.0, "measured": 0.0, "below": 0.0, "ratio": 0.0}

    def after_step(self, state: LoopState, seen: StepSeen) -> Outcome:
        sums = _faded(state, seen, self.decay, trace=seen.values[TRACE], norm_sq=seen.values[NORM_SQ])
        there = _measured(seen)
        measured = state["measured"] + tf.cast(there, tf.float64)
        ratio = seen.examples * _ratio(sums["norm_sq"], sums["trace"])
        low = tf.logical_and(ratio < self.threshold, measured > self.after)
        below = tf.where(there, tf.where(low, state["below"] + 1, 0 * measured), state["below"])
        return Outcome({**sums, "measured": measured, "below": below, "ratio": ratio}, there & (below >= self.patience))

    def reason(self, state: Mapping[str, float]) -> str:
        return (
            f"the gradient's signal-to-noise ratio is {state['ratio']:.3g}, below {self.threshold:g} "
            f"for {state['below']:.0f} measured steps"
        )


def _measured(seen: StepSeen) -> tf.Tensor:
    return seen.values[ROWS] >= 2  # False for NaN


def _faded(state: LoopState, seen: StepSeen, decay: float, **values: tf.Tensor) -> dict[str, tf.Tensor]:
    """The running sums after this step."""
    there, weight = _measured(seen), seen.values[ROWS] - 1
    return {name: tf.where(there, decay * state[name] + weight * value, state[name]) for name, value in values.items()}


def _ratio(numerator: Any, denominator: Any) -> tf.Tensor:
    """NaN before anything was measured."""
    return tf.where(tf.equal(denominator, 0), tf.constant(float("nan"), tf.float64), numerator / denominator)


def _check(decay: float, **above_zero: float) -> None:
    if not 0 <= decay < 1:
        raise ValueError(f"`decay` must be in [0, 1). Received: decay={decay}")
    for name, value in above_zero.items():
        if not value > 0:
            raise ValueError(f"`{name}` must be above 0. Received: {name}={value}")
