"""Adam's update inside an XLA program of the fast tier (fitcore/blocks.py): Keras's own, but for sparse gradients.

An embedding's gradient is sparse: a few rows of a large table. Keras makes two arrays of the table's size, of the gradient
and of its square, of zeros but for these rows, and adds them to the moments. Here the moments decay where they are, and then
get what the batch's rows add: no array is made, half the memory is touched, and two roundings differ.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import tensorflow as tf

from fitcore import keras_private


@contextlib.contextmanager
def tracing_for_xla(model: Any, optimizer: Any) -> Iterator[None]:
    """While a step is traced inside for XLA, its losses and metrics are Keras's, and Adam updates as said above."""
    with keras_private.losses_see_no_size(model), updating_in_xla(optimizer):
        yield


@contextlib.contextmanager
def updating_in_xla(optimizer: Any) -> Iterator[None]:
    """While a step is traced inside for XLA, Adam and AdamW update from sparse gradients as said above."""
    inner = keras_private.inner_optimizer(optimizer)
    if type(inner) not in (keras.optimizers.Adam, keras.optimizers.AdamW) or keras_private.has_own_update(inner):
        yield
        return

    def update(gradients: Sequence[Any], variables: Sequence[Any], learning_rate: Any) -> None:
        for gradient, variable in zip(gradients, variables):
            if isinstance(gradient, tf.IndexedSlices):
                _sparse(inner, gradient, variable.value if isinstance(variable, keras.Variable) else variable, learning_rate)
            else:
                inner.update_step(gradient, variable, learning_rate)

    with keras_private.update_replaced(inner, update):
        yield


def _sparse(optimizer: Any, gradient: tf.IndexedSlices, weight: tf.Variable, learning_rate: Any) -> None:
    """Keras's formulas. As there, a row that a batch has twice adds the squares of both parts, not the square of their sum."""
    dtype = weight.dtype
    slots = keras_private.optimizer_slots(optimizer, [weight])
    (m,), (v,), rows = slots["m"], slots["v"], tf.cast(gradient.values, dtype)
    for moment, beta, added in ((m, optimizer.beta_1, rows), (v, optimizer.beta_2, tf.square(rows))):
        moment.assign(moment * tf.constant(beta, dtype), read_value=False)
        moment.scatter_add(tf.IndexedSlices(added * tf.constant(1 - beta, dtype), gradient.indices))
    if optimizer.amsgrad:
        (largest,) = slots["v_hat"]
        largest.assign(tf.maximum(largest, v), read_value=False)
        v = largest
    step = tf.cast(optimizer.iterations + 1, dtype)
    power_1, power_2 = (tf.pow(tf.constant(beta, dtype), step) for beta in (optimizer.beta_1, optimizer.beta_2))
    alpha = tf.cast(learning_rate, dtype) * tf.sqrt(1 - power_2) / (1 - power_1)
    weight.assign_sub(m * alpha / (tf.sqrt(v) + tf.constant(optimizer.epsilon, dtype)), read_value=False)
