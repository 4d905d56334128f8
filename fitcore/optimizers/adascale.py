"""AdaScale SGD: a learning rate that follows from how much noise a larger batch takes away."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import keras
import tensorflow as tf

from fitcore import keras_private
from fitcore.noise import GradientNoise
from fitcore.optimizers.measured import Measured, check_keywords, check_measured


@keras.saving.register_keras_serializable("fitcore")
class AdaScaleSGD(keras.optimizers.SGD):
    """SGD for batches larger than those its learning rate was tuned for (Johnson et al. 2020, arXiv:2007.05105).

    With a batch S times as large a step is worth r of the old ones, 1 <= r <= S, where

        r = (sigma^2 + mu^2) / (sigma^2/S + mu^2)

    sigma^2 being the variance of the base batch's gradient, tr(Sigma)/base_batch_size, and mu^2 the true gradient's squared
    norm. The step takes r times the learning rate, and training has advanced by r steps of the base batch: `progress` counts
    those, and a schedule is read there, so that it ends where it would have ended.

        m <- momentum * m + g,   w <- w - r * learning_rate * m

    tr(Sigma) and mu^2 are measured in each step from its own backward pass, over examples, so that S may change and need be no
    whole number. Averaged are the unbiased estimates themselves and the averages are clamped, at 1e-6 and 0; the paper
    (appendix B.3) clamps each estimate first, which biases mu^2 upwards where noise dominates. As there, the average is plain
    over the first 1/(1 - smoothing) steps and exponential from then on.

    A Keras optimizer: give it to `compile` and train by `fitcore.fit`, or to a `fitcore.Engine`.

    Args:
      learning_rate: for the base batch: a float or a `LearningRateSchedule`, which is read at `progress`.
      base_batch_size: examples in the batch that it was tuned for.
      momentum: in [0, 1].
      smoothing: weight of the past in the averages, in [0, 1). None: the paper's max(0, 1 - S/1000).
      noise: how to measure; None: at each step. Steps between keep the last gain.
      keywords: weight decay, clipping, averages: as for `keras.optimizers.SGD`.

    Attributes:
      gain: r of the last step, a variable.
      progress: sum of all gains, a float64 variable.

    Raises:
      ValueError: for values that make no sense, and where it is not given what it needs: outside of fitcore's fit, or inside a
        `LossScaleOptimizer`.
    """

    def __init__(
        self,
        learning_rate: Any = 0.01,
        base_batch_size: int = 32,
        momentum: float = 0.0,
        smoothing: float | None = None,
        noise: GradientNoise | None = None,
        name: str = "adascale_sgd",
        **keywords: Any,
    ) -> None:
        if isinstance(base_batch_size, bool) or not isinstance(base_batch_size, int) or base_batch_size < 1:
            raise ValueError(f"`base_batch_size` must be an int of at least 1. Received: base_batch_size={base_batch_size!r}")
        if smoothing is not None and not 0 <= smoothing < 1:
            raise ValueError(f"`smoothing` must be in [0, 1) or None. Received: smoothing={smoothing!r}")
        check_keywords(keywords, "nesterov", "gradient_accumulation_steps")
        schedule = learning_rate if isinstance(learning_rate, keras.optimizers.schedules.LearningRateSchedule) else None
        super().__init__(
            learning_rate if schedule is None else self.scheduled_rate,
            momentum=momentum,
            name=name,
            **keywords,
        )
        self.schedule = schedule
        self.base_batch_size = base_batch_size
        self.smoothing = smoothing
        self.noise = noise or GradientNoise(per_layer=False)
        self.progress = self.add_variable((), dtype="float64", name="progress")
        self.gain = self.add_variable((), initializer="ones", dtype="float64", name="gain")
        self.trace = self.add_variable((), dtype="float64", name="trace")  # averages
        self.grad_norm_sq = self.add_variable((), dtype="float64", name="grad_norm_sq")
        self.measurements = self.add_variable((), dtype="float64", name="measurements")

    def apply_gradients(self, grads_and_vars: Iterable[tuple[Any, Any]], measured: Measured | None = None) -> Any:
        gradients, variables = zip(*grads_and_vars)
        self.apply(gradients, variables, measured)
        return self.iterations

    def apply(self, grads: Any, trainable_variables: Any = None, measured: Measured | None = None) -> None:
        check_measured(self, measured)
        assert measured is not None
        self._follow(measured)
        super().apply(grads, trainable_variables)
        self.progress.assign_add(self.gain)

    def _follow(self, measured: Measured) -> None:
        """Update averages and gain."""
        scale = tf.maximum(measured.examples / self.base_batch_size, 1.0)
        smoothing = tf.maximum(1 - scale / 1000, 0.0) if self.smoothing is None else tf.constant(self.smoothing, tf.float64)
        count = self.measurements.value + tf.cast(measured.known, tf.float64)
        share = tf.maximum(1 / tf.maximum(count, 1.0), 1 - smoothing) * tf.cast(measured.known, tf.float64)
        self.measurements.assign(count)
        for average, value in ((self.trace, measured.trace), (self.grad_norm_sq, measured.grad_norm_sq)):
            average.assign_add(share * (value - average.value))
        variance = tf.maximum(self.trace.value / self.base_batch_size, 1e-6)
        norm_sq = tf.maximum(self.grad_norm_sq.value, 0.0)
        gain = (variance + norm_sq) / (variance / scale + norm_sq)
        self.gain.assign(tf.where((count > 0) & (measured.examples > 0), gain, self.gain.value))

    def scheduled_rate(self) -> Any:
        """The base batch's learning rate at `progress`."""
        assert self.schedule is not None
        return self.schedule(tf.cast(self.progress, tf.float32))

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        ops = keras.ops
        rate = ops.cast(learning_rate, variable.dtype) * ops.cast(self.gain, variable.dtype)
        step = ops.cast(gradient, variable.dtype)
        if self.momentum != 0:
            momentum = self.momentums[keras_private.variable_index(self, variable)]
            self.assign(momentum, ops.add(ops.multiply(momentum, ops.cast(self.momentum, variable.dtype)), step))
            step = momentum
        self.assign_sub(variable, ops.multiply(step, rate))

    def get_config(self) -> dict[str, Any]:
        config: dict[str, Any] = super().get_config()
        del config["nesterov"], config["gradient_accumulation_steps"]
        if self.schedule is not None:
            config["learning_rate"] = keras.optimizers.schedules.serialize(self.schedule)
        return config | {"base_batch_size": self.base_batch_size, "smoothing": self.smoothing}
