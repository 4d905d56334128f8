"""Normalizations for XLA programs on a CPU, in which all sums over rows are matrix products.

XLA makes one loop of a sum and of what is summed, and walks down the columns in it. Products with ones sum in order.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import tensorflow as tf
from keras import layers

from fitcore import keras_private

ONES = 4  # rows of ones: of a single one XLA would make a loop again
ROWS = 4096  # of a batch normalization's inputs at least: with fewer nothing is gained


def summed_by_products(model: Any) -> contextlib.AbstractContextManager[None]:
    """Within it the model's normalizations are computed so, where they are over the last axis and shapes are known."""
    methods = [(layers.LayerNormalization, "call", _layer), (layers.BatchNormalization, "call", _batch)]
    return keras_private.computed_by(model, methods)


def _layer(layer: Any, otherwise: Callable[[Any], Any], inputs: Any) -> Any:
    """A layer normalization's `call`, in which each row has a `gamma` of its own."""
    if layer.gamma is None or not (is_plain(layer, inputs) and inputs.shape.is_fully_defined()):
        return otherwise(inputs)

    def computed(inputs: tf.Tensor) -> Any:
        gamma = _for_each_row(tf.convert_to_tensor(layer.gamma), inputs.shape)
        with keras_private.replaced(layer, "gamma", gamma):
            return type(layer).call(layer, inputs)

    return keras_private.called_as(otherwise, computed, inputs)


def _batch(layer: Any, otherwise: Callable[..., Any], inputs: Any, training: Any = None, mask: Any = None) -> Any:
    """A batch normalization's `call`."""
    if not normalizes_batch(layer, inputs, training, mask) or (inputs.shape[:-1].num_elements() or 0) < ROWS:
        return otherwise(inputs, training=training, mask=mask)

    def computed(inputs: tf.Tensor, training: bool, mask: None) -> tf.Tensor:
        """As Keras's."""
        moments = getattr(layer, keras_private.BATCH_MOMENTS)
        mean, variance = keras_private.called_as(moments, _moments, inputs, mask)
        keep_moving(layer, mean, variance)
        scale = tf.math.rsqrt(variance + layer.epsilon)
        if layer.gamma is not None:
            scale *= layer.gamma
        shift = -mean * scale
        if layer.beta is not None:
            shift += layer.beta
        return inputs * _for_each_row(scale, inputs.shape) + _for_each_row(shift, inputs.shape)

    return keras_private.called_as(otherwise, computed, inputs, training=training, mask=mask)


def normalizes_batch(layer: Any, inputs: Any, training: Any, mask: Any) -> bool:
    """Whether a batch normalization does nothing but to normalize by this batch's moments."""
    special = mask is not None or layer.synchronized or getattr(layer, "renorm", False)
    return training is True and layer.trainable and not special and is_plain(layer, inputs)


def keep_moving(layer: Any, mean: tf.Tensor, variance: tf.Tensor) -> None:
    """A batch normalization's moving averages, by Keras's formula."""
    for average, now in ((layer.moving_mean, mean), (layer.moving_variance, variance)):
        average.assign(average * layer.momentum + now * (1.0 - layer.momentum))


def is_plain(layer: Any, inputs: Any) -> bool:
    """Whether a normalization is along the last axis, without casting."""
    rank = inputs.shape.rank
    along_last = layer.axis in (-1, [-1], rank - 1, [rank - 1])
    return along_last and layer.variable_dtype == layer.compute_dtype == inputs.dtype


def _moments(inputs: tf.Tensor, mask: None) -> tuple[tf.Tensor, tf.Tensor]:
    """(mean, variance) of each column; as in `tf.nn.moments`, the variance takes the mean for a constant."""
    mean = _mean_of_rows(inputs)
    return mean, _mean_of_rows(tf.math.squared_difference(inputs, tf.stop_gradient(mean)))


def _sum_of_rows(tensor: tf.Tensor) -> tf.Tensor:
    rows = tf.reshape(tensor, [-1, tensor.shape[-1]])
    return tf.matmul(tf.ones([ONES, rows.shape[0]], rows.dtype), rows)[0]


def _for_each_row(vector: tf.Tensor, shape: tf.TensorShape) -> tf.Tensor:
    """The vector, as often as there are rows in `shape`; its gradient is their sum."""
    spread: tf.Tensor = tf.custom_gradient(lambda vector: (tf.broadcast_to(vector, shape), _sum_of_rows))(vector)
    return spread


def _mean_of_rows(tensor: tf.Tensor) -> tf.Tensor:
    count = tensor.shape[:-1].num_elements()

    def mean(tensor: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
        return _sum_of_rows(tensor) / count, lambda above: tf.broadcast_to(above / count, tensor.shape)

    found: tf.Tensor = tf.custom_gradient(mean)(tensor)
    return found
