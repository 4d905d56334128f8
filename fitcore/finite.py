"""XLA's blocks of steps train on finite numbers alone. Where another one comes up, the call is undone.

What a NaN or an infinity spreads to depends on the kernels. TensorFlow's fused product and ReLU makes 0 of a NaN, its maximum
pooling leaves NaNs out, and XLA's do neither: one bad row would cost all weights where Keras trains on. The steps are then made
by TensorFlow's kernels: see `Engine.train`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from fitcore import keras_private


class NotFiniteError(Exception):
    """A call of XLA's blocks met a number that isn't finite. Every variable is as it was before the call."""


def all_finite(tensors: Any) -> tf.Tensor:
    """Whether all numbers of a nest of tensors are finite, traced: bool scalar. Tensors of other dtypes are."""
    floats = [each for each in tf.nest.flatten(tensors) if each.dtype.is_floating or each.dtype.is_complex]
    magnitudes = [tf.abs(each) if each.dtype.is_complex else each for each in floats]
    return tf.reduce_all([tf.reduce_all(tf.math.is_finite(each)) for each in magnitudes]) if floats else tf.constant(True)


class Before:
    """Variables as they are now, traced.

    Args:
      variables: any; some of them may hold numbers that aren't finite already.
    """

    def __init__(self, variables: Sequence[keras_private.Captured]) -> None:
        self._values = [(variable, variable.read()) for variable in variables]

    def kept_if(self, finite: tf.Tensor, logs: Any) -> tf.Tensor:
        """Put the variables back if they no longer are what they should be, traced. Returns whether they were left alone.

        Args:
          finite: whether all numbers are finite in the variables and the logs now. If not, it may have been so before: a
            running minimum begins with infinity.
          logs: of the last step.
        """

        def looked_at() -> tf.Tensor:
            bad = [
                tf.logical_and(all_finite(value), tf.logical_not(all_finite(variable.read())))
                for variable, value in self._values
            ]
            spread = tf.logical_or(tf.reduce_any(bad) if bad else tf.constant(False), tf.logical_not(all_finite(logs)))
            return tf.cond(spread, self._put_back, lambda: tf.constant(True))

        kept: tf.Tensor = tf.cond(finite, lambda: tf.constant(True), looked_at)
        return kept

    def _put_back(self) -> tf.Tensor:
        for variable, value in self._values:
            variable.assign(value)
        return tf.constant(False)
