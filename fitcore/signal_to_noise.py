"""The gradient's signal-to-noise ratio, entry by entry, at fixed weights."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from fitcore import keras_private
from fitcore.engine import Engine
from fitcore.noise.config import GradientNoise
from fitcore.noise.plan import weight_factors
from fitcore.noise.probe import Probe


def gradient_snr(
    model: keras.Model, x: Any, y: Any = None, sample_weight: Any = None, *, batch_size: int = 32
) -> dict[str, np.ndarray[Any, np.dtype[np.float64]]]:
    """GSNR_j = G_j^2/Sigma_jj of each entry of each weight (Liu et al. 2020, arXiv:2001.07384), over the rows of `x`.

    Measured in training mode at the weights as they are; nothing is trained, and moving statistics, random generators and
    metrics are put back. Each batch takes memory for `batch_size` copies of the largest weight.

    Args:
      model: a compiled Keras model, each weight of which can be measured per example.
      x, y, sample_weight: as in fit; arrays of n > 3 rows. Rows past the last whole batch are left out.
      batch_size: rows at a time.

    Returns:
      An array of the weight's shape by its path. The plug-in ratio's bias is taken out ((n - 3)/(n - 1) of it, less 1/n), as
      it is for normal gradients, so that entries without signal average to zero and may be negative. NaN without noise.

    Raises:
      ValueError: fewer than 4 rows, or a weight that can't be measured per example.
    """
    engine = Engine.of_compiled(model)
    parts, variables = engine.parts, list(engine.parts.trainable())
    data = (x, y, sample_weight)
    rows = len(keras.tree.flatten(x)[0]) // batch_size * batch_size
    if rows < 4:
        raise ValueError(f"`x` must hold whole batches of 4 rows or more together. Received: {rows} rows in such batches.")
    probe = Probe(model, GradientNoise("per_example"))

    @tf.function(autograph=False)  # type: ignore[untyped-decorator]
    def sums(batch: Any) -> Any:
        x, y, sample_weight = batch
        with tf.GradientTape() as tape:
            with probe.watching():
                y_pred = parts.forward(x, True)
            loss = parts.loss(x, y, y_pred, sample_weight, True)
        taps = probe.taps(x, variables, loss)
        deltas = {id(tap): delta for tap, delta in zip(taps, tape.gradient(loss, taps))}
        found = []
        for factor in weight_factors(probe.weights, deltas, batch_size).values():
            each = None if factor is None else batch_size * tf.cast(factor.each(), tf.float64)
            found.append([None, None] if each is None else [tf.reduce_sum(each, 0), tf.reduce_sum(tf.square(each), 0)])
        return found

    state = [variable for layer in keras_private.all_layers(model) for variable in layer.non_trainable_variables]
    kept = [(variable, variable.numpy()) for variable in state]
    totals = [[np.zeros(v.shape), np.zeros(v.shape)] for v in variables]
    try:
        with engine.metrics_kept():
            for start in range(0, rows, batch_size):
                part = keras.tree.map_structure(
                    lambda leaf: None if leaf is None else tf.convert_to_tensor(leaf[start : start + batch_size]),  # noqa: B023
                    data,
                )
                for total, found in zip(totals, sums(part)):
                    for k, value in enumerate(found):
                        if value is not None:
                            total[k] += value.numpy().reshape(total[k].shape)
    finally:
        for variable, value in kept:
            variable.assign(value)
    result = {}
    for variable, (summed, squares) in zip(variables, totals):
        mean = summed / rows
        variance = np.maximum(squares - rows * mean**2, 0.0) / (rows - 1)
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = np.where(variance > 0, mean**2 / variance, np.nan)
        result[variable.path] = ratio * (rows - 3) / (rows - 1) - 1 / rows
    return result
