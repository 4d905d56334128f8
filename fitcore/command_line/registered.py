"""The names that fitcore gives to what is not its own or takes several parts: Keras's optimizers, stop hooks, noise."""

from __future__ import annotations

import functools
import re

import keras

from fitcore.command_line.registry import register
from fitcore.hooks import (
    CABS,
    Divergence,
    EarlyStopping,
    InLoop,
    LowSignal,
    NoiseLearningRate,
    NonFinite,
    NormTest,
    Patience,
    Smoothed,
    StopAfter,
    StopOn,
    StopRule,
    Target,
)
from fitcore.noise import GradientNoise
from fitcore.noise.config import ESTIMATORS

for _name, _class in sorted(vars(keras.optimizers).items()):
    # Optimizer can't train; LossScaleOptimizer and MultiOptimizer are made of optimizers, not of numbers.
    if (
        isinstance(_class, type)
        and issubclass(_class, keras.optimizers.Optimizer)
        and _name not in ("Optimizer", "LossScaleOptimizer", "MultiOptimizer")
    ):
        register("optimizer", re.sub(r"(?<=[a-z])(?=[A-Z][a-z])", "_", _name).lower())(_class)

for _estimator in ESTIMATORS:
    register("noise", _estimator)(functools.partial(GradientNoise, _estimator))


register("stop", "early_stopping")(EarlyStopping)
register("stop", "after")(StopAfter)


@register("stop", "patience")
def patience(
    patience: int, monitor: str = "val_loss", min_delta: float = 0.0, mode: str = "min", smooth: float = 0.0
) -> StopOn:
    """After `patience` values of `monitor` in a row without an improvement by more than `min_delta`."""
    return StopOn(_smoothed(Patience(patience, min_delta, mode), smooth), monitor)


@register("stop", "target")
def target(value: float, monitor: str = "val_loss", mode: str = "min", smooth: float = 0.0) -> StopOn:
    """When `monitor` reaches `value`."""
    return StopOn(_smoothed(Target(value, mode), smooth), monitor)


@register("stop", "divergence")
def divergence(factor: float, monitor: str = "step/loss", smooth: float = 0.0) -> StopOn:
    """When `monitor` is above `factor` times the lowest so far."""
    return StopOn(_smoothed(Divergence(factor), smooth), monitor)


@register("stop", "non_finite")
def non_finite(monitor: str = "step/loss") -> StopOn:
    """At the first NaN or infinity of `monitor`."""
    return StopOn(NonFinite(), monitor)


@register("stop", "low_signal")
def low_signal(threshold: float, patience: int = 1, after: int = 0, decay: float = 0.99) -> InLoop:
    """When the batch gradient's signal-to-noise ratio has been below `threshold` for `patience` measurements."""
    return InLoop(LowSignal(threshold, patience, after, decay))


@register("schedule", "norm_test")
def norm_test(theta: float, most: int, decay: float = 0.9) -> InLoop:
    """Of the batch size: it grows to `most` as the batch's gradient fails the norm test."""
    return InLoop(NormTest(theta, most, decay))


@register("schedule", "cabs")
def cabs(least: int, most: int, decay: float = 0.95) -> InLoop:
    """Of the batch size: learning rate * tr(Sigma)/loss."""
    return InLoop(CABS(least, most, decay))


@register("schedule", "noise_rate")
def noise_rate(highest: float, decay: float = 0.99) -> InLoop:
    """Of the learning rate: highest/(1 + noise scale/batch size)."""
    return InLoop(NoiseLearningRate(highest, decay))


def _smoothed(rule: StopRule, decay: float) -> StopRule:
    return Smoothed(rule, decay) if decay else rule
