"""Layers, losses and metrics."""

from __future__ import annotations

import random
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers


class Counts(layers.Layer):
    """Counts its calls in training, and lets the count be felt."""

    def build(self, shape: Any) -> None:
        self.calls = self.add_weight(shape=(), initializer="zeros", trainable=False, name="calls")

    def call(self, x: Any, training: bool = False) -> Any:
        if training:
            self.calls.assign_add(1.0)
        return x * keras.ops.cast(1 + 0.01 * self.calls, x.dtype)


class RunningCentre(layers.Layer):
    """Takes away a running mean."""

    def build(self, shape: Any) -> None:
        self.mean = self.add_weight(shape=(shape[-1],), initializer="zeros", trainable=False, name="mean")

    def call(self, x: Any, training: bool = False) -> Any:
        if training:
            now = keras.ops.mean(x, axis=tuple(range(len(x.shape) - 1)))
            self.mean.assign(0.9 * self.mean + 0.1 * keras.ops.cast(now, self.mean.dtype))
        return x - keras.ops.cast(self.mean, x.dtype)


class OwnNoise(layers.Layer):
    """Adds noise from its own seed generator."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.seed = keras.random.SeedGenerator(11)

    def call(self, x: Any) -> Any:
        return x + 0.1 * keras.random.normal(keras.ops.shape(x), dtype=x.dtype, seed=self.seed)


class DrawsByTensorFlow(layers.Layer):
    """Adds noise as TensorFlow 2's guides do."""

    def call(self, x: Any, training: bool = False) -> Any:
        return x + 0.1 * tf.random.normal(tf.shape(x), dtype=x.dtype) if training else x


class DrawsWhileTraced(layers.Layer):
    """Scales by what Python and NumPy give when it is called: once for each trace."""

    def call(self, x: Any, training: bool = False) -> Any:
        return x * (0.5 + random.random() + np.random.rand()) if training else x


class Penalty(layers.Layer):
    """Adds a loss."""

    def __init__(self, rate: float = 0.01, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.rate = rate

    def call(self, x: Any) -> Any:
        self.add_loss(self.rate * keras.ops.mean(keras.ops.square(x)))
        return x


class PlainVariable(layers.Layer):
    """Keeps a variable of TensorFlow's, which Keras doesn't see."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.seen = tf.Variable(1.0, trainable=False)

    def call(self, x: Any, training: bool = False) -> Any:
        if training:
            self.seen.assign(self.seen * 1.01)
        return x * tf.cast(self.seen, x.dtype)


class Reverses(layers.Layer):
    """Turns the sign of the gradient."""

    def call(self, x: Any) -> Any:
        @tf.custom_gradient  # type: ignore[untyped-decorator]
        def turned(value: Any) -> Any:
            return tf.identity(value), lambda gradient: -0.5 * gradient

        return turned(x)


class Gated(layers.Layer):
    """SwiGLU: two products, one through swish."""

    def __init__(self, units: int, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.gate, self.value = layers.Dense(units, use_bias=False), layers.Dense(units, use_bias=False)

    def call(self, x: Any) -> Any:
        return keras.ops.silu(self.gate(x)) * self.value(x)


class Residual(layers.Layer):
    """A block with weights of its own and inner layers."""

    def __init__(self, activation: Any, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.norm, self.act = layers.LayerNormalization(), layers.Activation(activation)

    def build(self, shape: Any) -> None:
        self.kernel = self.add_weight(shape=(shape[-1], shape[-1]), initializer="glorot_uniform", name="kernel")
        self.norm.build(shape)

    def call(self, x: Any) -> Any:
        return x + self.act(keras.ops.matmul(self.norm(x), self.kernel))


class SwishUnit(layers.Layer):
    """x * sigmoid(b * x) with a trained b."""

    def build(self, shape: Any) -> None:
        self.slope = self.add_weight(shape=(), initializer="ones", name="slope")

    def call(self, x: Any) -> Any:
        return x * keras.ops.sigmoid(self.slope * x)


class Tied(layers.Layer):
    """Multiplies by another layer's kernel, transposed."""

    def __init__(self, other: Any, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.other = other

    def call(self, x: Any) -> Any:
        return keras.ops.matmul(x, keras.ops.transpose(keras.ops.cast(self.other.kernel, x.dtype)))


# --- losses and metrics ---------------------------------------------------------------------------------------------------


def relative_square(y: Any, p: Any) -> Any:
    return keras.ops.mean(keras.ops.square(p - y) / (1 + keras.ops.abs(y)), axis=-1)


class Asymmetric(keras.losses.Loss):
    """Errors to one side count less."""

    def __init__(self, share: float, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.share = share

    def call(self, y: Any, p: Any) -> Any:
        error = p - keras.ops.cast(y, p.dtype)
        return keras.ops.mean(keras.ops.where(error > 0, error, -self.share * error), axis=-1)


class RemembersLoss(keras.losses.Loss):
    """Divides by a running mean of itself, which it keeps in a variable of its own."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.mean = tf.Variable(1.0, trainable=False)

    def call(self, y: Any, p: Any) -> Any:
        loss = keras.ops.mean(keras.ops.square(p - keras.ops.cast(y, p.dtype)), axis=-1)
        self.mean.assign(0.9 * self.mean + 0.1 * tf.cast(tf.reduce_mean(loss), tf.float32))
        return loss / tf.cast(self.mean, loss.dtype)


class Spread(keras.metrics.Metric):
    """The standard deviation of all errors."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.sums = self.add_weight(shape=(3,), initializer="zeros", name="sums")

    def update_state(self, y: Any, p: Any, sample_weight: Any = None) -> None:
        error = keras.ops.cast(p, "float32") - keras.ops.cast(y, "float32")
        count = keras.ops.cast(keras.ops.size(error), "float32")
        self.sums.assign_add(keras.ops.stack([count, keras.ops.sum(error), keras.ops.sum(error * error)]))

    def result(self) -> Any:
        return keras.ops.sqrt(self.sums[2] / self.sums[0] - (self.sums[1] / self.sums[0]) ** 2)


def largest_error(y: Any, p: Any) -> Any:
    return keras.ops.max(keras.ops.abs(p - keras.ops.cast(y, p.dtype)), axis=-1)
