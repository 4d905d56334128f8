"""oneDNN's kernels in TensorFlow's graphs on a CPU: convolutions, maximum pooling, batch normalization.

TensorFlow's wheels for x86 have them, but off by default on CPUs without instructions for neural networks, and then its own
convolutions take twice as long. They add up in another order: so they are for the fast tier. A maximum has nothing to add up:
where windows don't overlap, pooling has the very bits of TensorFlow's, and the exact tier has it too.

Where TensorFlow has switched oneDNN on, it puts these kernels into every graph, and nothing is left to ask for.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import tensorflow as tf
from keras import layers

from fitcore import keras_private
from fitcore.noise.convolutions import per_dim
from fitcore.normalization import keep_moving, normalizes_batch

Gradients = Callable[..., Any]
_custom_gradient: Callable[[Gradients], Gradients] = tf.custom_gradient  # typed


def by_onednn(model: Any, exact: bool) -> contextlib.AbstractContextManager[None]:
    """Within it the model's layers are computed so, where oneDNN has their kind and TensorFlow doesn't use it anyway.

    Args:
      model: its layers.
      exact: only where the bits are TensorFlow's.
    """
    if keras_private.onednn_is_on():
        return contextlib.nullcontext()
    methods: list[tuple[type, str, Callable[..., Any]]] = [(layers.MaxPooling2D, "call", _pooled)]
    if not exact:
        methods += [(layers.Conv2D, "convolution_op", _convolved), (layers.BatchNormalization, "call", _normalized)]
    return keras_private.computed_by(model, methods)


def _is_for_here(inputs: Any, *ops: str) -> bool:
    """Whether inputs are images of float32 in a graph, and the ops have kernels."""
    images = tf.is_symbolic_tensor(inputs) and inputs.dtype == tf.float32 and inputs.shape.rank == 4
    return images and all(map(keras_private.has_onednn, ops))


# --- convolutions ---------------------------------------------------------------------------------------------------------


def _convolved(layer: Any, otherwise: Callable[..., Any], inputs: Any, kernel: Any) -> Any:
    """A convolution layer's `convolution_op`."""
    weights = tf.convert_to_tensor(kernel)
    here = _is_for_here(inputs, "Conv2D", "Conv2DBackpropInput", "Conv2DBackpropFilter") and weights.dtype == tf.float32
    if not (here and layer.data_format == "channels_last" and layer.groups == 1):
        return otherwise(inputs, kernel)
    how = {
        "strides": [1, *per_dim(layer.strides, 2), 1],
        "dilations": [1, *per_dim(layer.dilation_rate, 2), 1],
        "padding": layer.padding.upper(),
        "explicit_paddings": [],
        "data_format": "NHWC",
        "use_cudnn_on_gpu": True,
    }

    # Each is linear in both of its arguments, and its gradients are the other two: so there are gradients of any order.
    @_custom_gradient
    def convolution(x: tf.Tensor, w: tf.Tensor) -> tuple[tf.Tensor, Gradients]:
        (y,) = keras_private.onednn("Conv2D", [x, w], is_filter_const=False, **how)
        return y, lambda d: (of_inputs(w, d, tf.shape(x)), of_kernel(x, d, tf.shape(w)))

    @_custom_gradient
    def of_inputs(w: tf.Tensor, d: tf.Tensor, shape: tf.Tensor) -> tuple[tf.Tensor, Gradients]:
        (gradient,) = keras_private.onednn("Conv2DBackpropInput", [shape, w, d], **how)
        return gradient, lambda above: (of_kernel(above, d, tf.shape(w)), convolution(above, w), None)

    @_custom_gradient
    def of_kernel(x: tf.Tensor, d: tf.Tensor, shape: tf.Tensor) -> tuple[tf.Tensor, Gradients]:
        (gradient,) = keras_private.onednn("Conv2DBackpropFilter", [x, shape, d], **how)
        return gradient, lambda above: (of_inputs(above, d, tf.shape(x)), convolution(x, above), None)

    return convolution(inputs, weights)


# --- maximum pooling ------------------------------------------------------------------------------------------------------


def _pooled(layer: Any, otherwise: Callable[..., Any], inputs: Any) -> Any:
    """A maximum pooling layer's `call`. Of equal maxima the first gets the gradient, as TensorFlow has it."""
    size, strides = per_dim(layer.pool_size, 2), per_dim(layer.strides, 2)
    apart = all(step >= extent for step, extent in zip(strides, size))
    if not (_is_for_here(inputs, "MaxPool", "MaxPoolGrad") and layer.data_format == "channels_last" and apart):
        return otherwise(inputs)
    how = {"ksize": [1, *size, 1], "strides": [1, *strides, 1], "padding": layer.padding.upper(), "data_format": "NHWC"}

    @_custom_gradient
    def pool(x: tf.Tensor) -> tuple[tf.Tensor, Gradients]:
        y, places = keras_private.onednn("MaxPool", [x], workspace_enabled=True, explicit_paddings=[], **how)

        @_custom_gradient
        def of_inputs(d: tf.Tensor) -> tuple[tf.Tensor, Gradients]:
            def by_onednn() -> tf.Tensor:
                return keras_private.onednn("MaxPoolGrad", [x, y, d, places], workspace_enabled=True, **how)[0]

            def by_tensorflow() -> tf.Tensor:
                return tf.raw_ops.MaxPoolGrad(orig_input=x, orig_output=y, grad=d, **how)

            # in a window with a NaN the two choose other places
            gradient = tf.cond(tf.math.is_nan(tf.reduce_sum(x)), by_tensorflow, by_onednn)
            return gradient, lambda above: tf.raw_ops.MaxPoolGradGrad(orig_input=x, orig_output=y, grad=above, **how)

        return y, of_inputs

    return pool(inputs)


# --- batch normalization --------------------------------------------------------------------------------------------------


def _normalized(layer: Any, otherwise: Callable[..., Any], inputs: Any, training: Any = None, mask: Any = None) -> Any:
    """A batch normalization's `call`; where the gradient noise is measured it stays Keras's, whose parts are watched."""
    here = _is_for_here(inputs, "FusedBatchNormV3", "FusedBatchNormGradV3")
    if not here or keras_private.is_noted(otherwise) or not normalizes_batch(layer, inputs, training, mask):
        return otherwise(inputs, training=training, mask=mask)
    how = {"epsilon": float(layer.epsilon), "data_format": "NHWC", "is_training": True}
    zeros = tf.zeros(inputs.shape[-1:])

    @_custom_gradient
    def normalization(x: tf.Tensor, scale: tf.Tensor, shift: tf.Tensor) -> tuple[Any, Gradients]:
        given = [x, scale, shift, zeros, zeros]
        y, _, _, *kept = keras_private.onednn("FusedBatchNormV3", given, exponential_avg_factor=1.0, **how)
        mean, variance, _ = kept

        @_custom_gradient
        def backward(d: tf.Tensor, x: tf.Tensor, scale: tf.Tensor) -> tuple[Any, Gradients]:
            found = keras_private.onednn("FusedBatchNormGradV3", [d, x, scale, *kept], **how)[:3]

            def of_backward(*above: tf.Tensor) -> Any:
                with tf.GradientTape() as outer:
                    outer.watch([d, x, scale])
                    with tf.GradientTape() as inner:
                        inner.watch([x, scale, zeros])
                        moments = tf.nn.moments(x, [0, 1, 2])
                        again = tf.nn.batch_normalization(x, *moments, zeros, scale, layer.epsilon)
                    plain = inner.gradient(again, [x, scale, zeros], output_gradients=d)
                return outer.gradient(plain, [d, x, scale], output_gradients=above)

            return found, of_backward

        return (y, mean, variance), lambda d, *_: backward(d, x, scale)

    scale = tf.ones_like(zeros) if layer.gamma is None else tf.convert_to_tensor(layer.gamma)
    shift = zeros if layer.beta is None else tf.convert_to_tensor(layer.beta)
    y, mean, variance = normalization(inputs, scale, shift)
    keep_moving(layer, mean, variance)
    return y
