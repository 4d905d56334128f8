"""The names that fitcore gives to what is not its own or takes several parts: Keras's optimizers, stop hooks, noise."""

from __future__ import annotations

import functools
import re

import keras

from fitcore.hooks import NonFinite, Patience, StopOn
from fitcore.noise import GradientNoise
from fitcore.registry import register

for _name, _class in sorted(vars(keras.optimizers).items()):
    # Optimizer can't train; LossScaleOptimizer and MultiOptimizer are made of optimizers, not of numbers.
    if (
        isinstance(_class, type)
        and issubclass(_class, keras.optimizers.Optimizer)
        and _name not in ("Optimizer", "LossScaleOptimizer", "MultiOptimizer")
    ):
        register("optimizer", re.sub(r"(?<=[a-z])(?=[A-Z][a-z])", "_", _name).lower())(_class)

for _estimator in ("auto", "per_example", "split"):
    register("noise", _estimator)(functools.partial(GradientNoise, _estimator))


@register("stop", "patience")
def patience(patience: int, monitor: str = "val_loss", min_delta: float = 0.0, mode: str = "min") -> StopOn:
    """After `patience` epochs in a row without an improvement of `monitor` by more than `min_delta`."""
    return StopOn(Patience(patience, min_delta, mode), monitor)


@register("stop", "non_finite")
def non_finite(monitor: str = "step/loss") -> StopOn:
    """At the first NaN or infinity of `monitor`."""
    return StopOn(NonFinite(), monitor)
