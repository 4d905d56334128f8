"""Gradients of what layer normalization multiplies by, for XLA programs on a CPU: sums over rows by matrix products.

XLA makes one loop of such a sum and of what is summed, and walks down the columns in it. Products with ones sum in order.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import tensorflow as tf
from keras import layers

from fitcore import keras_private

ONES = 4  # rows of ones: of a single one XLA would make a loop again


@contextlib.contextmanager
def summed_by_products(model: Any) -> Iterator[None]:
    """Within it the gradients of `gamma` of the model's layer normalizations over the last axis are computed so."""
    with contextlib.ExitStack() as changed:
        for layer in keras_private.all_layers(model) if not tf.config.list_logical_devices("GPU") else ():
            if type(layer).call is layers.LayerNormalization.call and layer.gamma is not None:
                changed.enter_context(keras_private.replaced(layer, "call", functools.partial(_normalized, layer, layer.call)))
        yield


def _normalized(layer: Any, otherwise: Callable[[Any], Any], inputs: Any) -> Any:
    """A layer normalization's `call`, in which each row has a `gamma` of its own."""
    rank = inputs.shape.rank
    over_last = layer.axis in (-1, [-1], rank - 1, [rank - 1])
    if not over_last or not inputs.shape.is_fully_defined() or not layer.variable_dtype == layer.compute_dtype == inputs.dtype:
        return otherwise(inputs)
    gamma = _for_each_row(tf.convert_to_tensor(layer.gamma), inputs.shape)
    with keras_private.replaced(layer, "gamma", gamma):
        return otherwise(inputs)


def _for_each_row(vector: tf.Tensor, shape: tf.TensorShape) -> tf.Tensor:
    """The vector, as often as there are rows in `shape`; its gradient is their sum."""

    def spread(vector: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
        def summed(above: tf.Tensor) -> tf.Tensor:
            rows = tf.reshape(above, [-1, shape[-1]])
            return tf.matmul(tf.ones([ONES, rows.shape[0]], rows.dtype), rows)[0]

        return tf.broadcast_to(vector, shape), summed

    spread_out: tf.Tensor = tf.custom_gradient(spread)(vector)
    return spread_out
