"""What a noise measurement has to know of the loss: how it is reduced over rows, and its regularization."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from fitcore.noise.factors import wide


def sums_rows(model: Any) -> bool:
    """Whether the compiled loss is a sum over rows, not a mean."""
    losses = keras.tree.flatten(getattr(model, "loss", None))
    reductions = {loss.reduction for loss in losses if isinstance(loss, keras.losses.Loss)}
    if "sum" in reductions and (len(reductions) > 1 or any(not isinstance(loss, keras.losses.Loss) for loss in losses)):
        raise ValueError("The split estimator can't tell what part of a batch's loss a micro-batch's is: some losses are sums.")
    return "sum" in reductions


def regularizer(variable: Any) -> Any:
    return getattr(variable, "regularizer", None)


def penalty_of(variable: Any, scale: Any) -> tf.Tensor | None:
    """Gradient of the weight's regularization, as it is in the applied gradient; None without any."""
    if regularizer(variable) is None:
        return None
    value = tf.convert_to_tensor(variable)
    with tf.GradientTape() as tape:
        tape.watch(value)
        penalty = variable.regularizer(value)
    gradient = wide(tape.gradient(penalty, value))
    return gradient if scale is None else gradient * tf.cast(scale, gradient.dtype)
