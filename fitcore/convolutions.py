"""Convolutions and maxima over windows for XLA programs on a CPU: by matrix products and elementwise maxima.

XLA's own are slow there where they are differentiated: ten times as slow as TensorFlow's kernels. What follows takes half of
those kernels' time, and its gradients are those of the ops that it is made of.
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable
from typing import Any

import tensorflow as tf
from keras import layers

from fitcore import keras_private
from fitcore.noise.convolutions import patches, per_dim, shifted

PATCH_BYTES = 32 << 20  # of a layer's patches at most: they are kept for the backward pass
MOST_IN_WINDOW = 16  # values whose maximum is taken one by one


def by_products(model: Any) -> contextlib.AbstractContextManager[None]:
    """Within it the model's convolutions and maxima are computed so, where shapes are known and it fits into memory."""
    convolutions = (layers.Conv2D, layers.Conv3D)  # Conv1D has no part that is its convolution alone
    poolings = (layers.MaxPooling1D, layers.MaxPooling2D, layers.MaxPooling3D)
    methods = [(kind, "convolution_op", _convolved) for kind in convolutions] + [(kind, "call", _pooled) for kind in poolings]
    return keras_private.computed_by(model, methods)


def _convolved(layer: Any, otherwise: Callable[..., Any], inputs: Any, kernel: Any) -> Any:
    """A convolution layer's `convolution_op`: what each output sees, side by side, times the kernel."""
    size, strides, dilation = (per_dim(each, layer.rank) for each in (layer.kernel_size, layer.strides, layer.dilation_rate))
    out = _out_sizes(layer, inputs)
    weights = tf.convert_to_tensor(kernel)
    if out is None or layer.groups != 1 or weights.dtype != inputs.dtype:
        return otherwise(inputs, kernel)
    width, filters = math.prod(weights.shape[:-1]), weights.shape[-1]
    if inputs.shape[0] * math.prod(out) * width * inputs.dtype.size > PATCH_BYTES:
        return otherwise(inputs, kernel)
    parts = patches(shifted(inputs, out, size, strides, dilation, layer.padding), size[0])
    measured = "call" in vars(layer)  # by who watches the gradient noise
    cheap = math.prod(out) * (width + filters) >= width * filters  # else it does without products for each example
    fits = inputs.shape[0] * width * filters * inputs.dtype.size <= PATCH_BYTES
    product = _by_example if measured and cheap and fits else _at_once
    products = [product(part, each) for part, each in zip(parts, tf.split(tf.reshape(weights, [width, filters]), len(parts)))]
    return tf.reshape(products[0] if len(parts) == 1 else tf.add_n(products), [-1, *out, filters])


def _at_once(seen: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
    """[n, positions, width] times [width, filters], without the batch's dimension."""
    return tf.matmul(tf.reshape(seen, [-1, seen.shape[-1]]), kernel)


def _by_example(seen: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
    """The same, with the kernel's gradient as the sum of each example's: XLA makes these once for it and for the noise."""

    def computed(seen: tf.Tensor, kernel: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]]]:
        def gradients(above: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            each = tf.matmul(seen, tf.reshape(above, [*seen.shape[:2], -1]), transpose_a=True)
            return tf.reshape(tf.matmul(above, kernel, transpose_b=True), seen.shape), tf.reduce_sum(each, axis=0)

        return _at_once(seen, kernel), gradients

    product: tf.Tensor = tf.custom_gradient(computed)(seen, kernel)
    return product


def _pooled(layer: Any, otherwise: Callable[..., Any], inputs: Any) -> Any:
    """A maximum pooling layer's `call`. Of equal maxima the first gets the gradient, as TensorFlow has it."""
    rank = inputs.shape.rank - 2
    size, strides = per_dim(layer.pool_size, rank), per_dim(layer.strides, rank)
    out = _out_sizes(layer, inputs)
    if out is None or math.prod(size) > MOST_IN_WINDOW:
        return otherwise(inputs)
    return functools.reduce(tf.maximum, shifted(inputs, out, size, strides, (1,) * rank, layer.padding, inputs.dtype.min))


def _out_sizes(layer: Any, inputs: Any) -> tuple[int, ...] | None:
    """How far the outputs reach; None if that isn't known or isn't for here."""
    if (
        not isinstance(inputs, tf.Tensor)
        or not inputs.shape.is_fully_defined()
        or inputs.dtype not in (tf.float32, tf.float64)
        or layer.data_format != "channels_last"
        or layer.padding not in ("valid", "same")
    ):
        return None
    return tuple(layer.compute_output_shape(tuple(inputs.shape))[1:-1])
