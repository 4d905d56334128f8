"""Convolutions and maxima over windows for XLA programs on a CPU: by matrix products and elementwise maxima.

XLA's own are slow there where they are differentiated: ten times as slow as TensorFlow's kernels. What follows takes half of
those kernels' time, and its gradients are those of the ops that it is made of.
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import tensorflow as tf
from keras import layers

from fitcore import keras_private
from fitcore.noise.convolutions import per_dim, shifted

PATCH_BYTES = 32 << 20  # of a layer's patches at most: they are kept for the backward pass
SIDE_BY_SIDE, FEW = 4 << 20, 64  # bytes, and values in a patch: beyond both, a product for each row of the kernel is faster
MOST_IN_WINDOW = 16  # values whose maximum is taken one by one

_CONVOLUTIONS = (layers.Conv1D, layers.Conv2D, layers.Conv3D)
_POOLINGS = (layers.MaxPooling1D, layers.MaxPooling2D, layers.MaxPooling3D)


@contextlib.contextmanager
def by_products(model: Any) -> Iterator[None]:
    """Within it the model's convolutions and maxima are computed so, where shapes are known and it fits into memory."""
    with contextlib.ExitStack() as changed:
        for layer in keras_private.all_layers(model) if not tf.config.list_logical_devices("GPU") else ():
            kind = type(layer)
            for bases, name, computed in ((_CONVOLUTIONS, "convolution_op", _convolved), (_POOLINGS, "call", _pooled)):
                if isinstance(layer, bases) and any(getattr(kind, name) is getattr(base, name) for base in bases):
                    changed.enter_context(
                        keras_private.replaced(layer, name, functools.partial(computed, layer, getattr(layer, name)))
                    )
        yield


def _convolved(layer: Any, otherwise: Callable[..., Any], inputs: Any, kernel: Any) -> Any:
    """A convolution layer's `convolution_op`: what each output sees, side by side, times the kernel."""
    size, strides, dilation = (per_dim(each, layer.rank) for each in (layer.kernel_size, layer.strides, layer.dilation_rate))
    out = _out_sizes(layer, inputs, size, strides, dilation)
    weights = tf.convert_to_tensor(kernel)
    if out is None or layer.groups != 1 or weights.dtype != inputs.dtype:
        return otherwise(inputs, kernel)
    width, filters = math.prod(weights.shape[:-1]), weights.shape[-1]
    patches = inputs.shape[0] * math.prod(out) * width * inputs.dtype.size
    if patches > PATCH_BYTES:
        return otherwise(inputs, kernel)
    seen = shifted(inputs, out, size, strides, dilation, layer.padding)
    rows = size[0] if patches > SIDE_BY_SIDE and width > FEW else 1  # how many products
    parts = [seen[i : i + len(seen) // rows] for i in range(0, len(seen), len(seen) // rows)]
    kernels = tf.split(tf.reshape(weights, [width, filters]), rows)
    products = [tf.matmul(tf.reshape(tf.concat(part, axis=-1), [-1, width // rows]), k) for part, k in zip(parts, kernels)]
    return tf.reshape(products[0] if rows == 1 else tf.add_n(products), [-1, *out, filters])


def _pooled(layer: Any, otherwise: Callable[..., Any], inputs: Any) -> Any:
    """A maximum pooling layer's `call`. Of equal maxima the first gets the gradient, as TensorFlow has it."""
    rank = inputs.shape.rank - 2
    size, strides = per_dim(layer.pool_size, rank), per_dim(layer.strides, rank)
    out = _out_sizes(layer, inputs, size, strides, (1,) * rank)
    if out is None or math.prod(size) > MOST_IN_WINDOW:
        return otherwise(inputs)
    return functools.reduce(tf.maximum, shifted(inputs, out, size, strides, (1,) * rank, layer.padding, inputs.dtype.min))


def _out_sizes(
    layer: Any, inputs: Any, size: Sequence[int], strides: Sequence[int], dilation: Sequence[int]
) -> list[int] | None:
    """How far the outputs reach; None if that isn't known or isn't for here."""
    if (
        not isinstance(inputs, tf.Tensor)
        or not inputs.shape.is_fully_defined()
        or inputs.dtype not in (tf.float32, tf.float64)
        or layer.data_format != "channels_last"
        or layer.padding not in ("valid", "same")
    ):
        return None
    within = [0 if layer.padding == "same" else (k - 1) * step for k, step in zip(size, dilation)]
    return [-(-(n - lost) // stride) for n, lost, stride in zip(inputs.shape[1:-1], within, strides)]
