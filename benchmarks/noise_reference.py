"""Gradient noise by brute force: a whole backward pass for each example."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import fitcore
from benchmarks.noise_cases import NoiseCase
from fitcore.noise import GradientNoise, NoiseCurves
from fitcore.noise.plan import owner
from fitcore.noise.statistics import estimate


@dataclass(frozen=True)
class Compared:
    """What was measured beside brute force, for the last step of a case.

    Attributes:
      error: the largest relative error of a layer's tr(Sigma) and, relative to |G_B|^2, of its |G|^2.
      layer: where it is.
      how: how the weights were measured.
    """

    error: float
    layer: str
    how: dict[str, str]


def per_example_gradients(model: keras.Model, data: Sequence[Any], variables: Sequence[Any]) -> list[np.ndarray]:
    """[n, *shape] for each variable: n times the gradient of example i's share of the batch's loss, in float64.

    Example i's share is what the loss is when all other examples have the weight zero: the same forward pass, the same
    dropout masks, normalizations by numbers of rows or of unmasked positions left alone.
    """
    x, y, sample_weight = data
    rows = len(keras.tree.flatten(x)[0])
    state = [(v, v.numpy()) for v in variables_of(model)]
    base = np.ones(rows) if sample_weight is None else np.asarray(sample_weight)

    @tf.function  # type: ignore[untyped-decorator]
    def gradient(weight: tf.Tensor) -> Any:
        with tf.GradientTape() as tape:
            y_pred = model(x, training=True)
            weight = tf.reshape(weight, [rows] + [1] * (keras.tree.flatten(y_pred)[0].shape.rank - 2))
            loss = model.compute_loss(x, y, y_pred, weight) - (tf.add_n(model.losses) if model.losses else 0.0)
        return [
            tf.convert_to_tensor(g)
            for g in tape.gradient(loss, [v.value for v in variables], unconnected_gradients=tf.UnconnectedGradients.ZERO)
        ]

    found: list[list[np.ndarray]] = [[] for _ in variables]
    for i in range(rows):
        for variable, value in state:
            variable.assign(value)
        for column, value in zip(found, gradient(tf.constant(base * (np.arange(rows) == i), keras.config.floatx()))):
            column.append(rows * value.numpy().astype(np.float64))
    for variable, value in state:
        variable.assign(value)
    return [np.stack(column) for column in found]


def variables_of(model: keras.Model) -> list[Any]:
    """All that a forward pass may change: `model.variables` and, which Keras doesn't list there, the states of RNNs."""
    return [*model.variables, *(state for layer in model.layers for state in getattr(layer, "states", None) or ())]


def by_layer(gradients: Sequence[np.ndarray], variables: Sequence[Any]) -> dict[str, tuple[float, float, float]]:
    """(tr(Sigma)^, |G|^2^, |G_B|^2) of each layer."""
    flat: dict[str, list[np.ndarray]] = {}
    for gradient, variable in zip(gradients, variables):
        flat.setdefault(owner(variable), []).append(gradient.reshape(len(gradient), -1))
    result = {}
    for layer, parts in flat.items():
        g = np.concatenate(parts, axis=1)
        mean = g.mean(0)
        trace, norm = estimate(((g - mean) ** 2).sum(), (mean**2).sum(), len(g))
        result[layer] = float(trace), float(norm), float((mean**2).sum())
    return result


def measure(case: NoiseCase, config: GradientNoise) -> tuple[keras.Model, dict[str, Any], list[np.ndarray], NoiseCurves]:
    """Build a case and train it for its batches; returns (model, fit's arguments, its variables before, its noise)."""
    keras.utils.clear_session()
    keras.utils.set_random_seed(7)
    model, arguments = case.build()
    randomized = np.random.default_rng(3)
    for variable in model.trainable_variables:  # biases at zero and scales at one would hide mistakes
        variable.assign(variable.numpy() + 0.1 * randomized.normal(size=variable.shape))
    model.optimizer.learning_rate = 0.0
    whole: dict[str, Any] = {"batch_size": len(keras.tree.flatten(arguments["x"])[0]), "shuffle": False}
    arguments = whole | arguments
    before = [variable.numpy() for variable in variables_of(model)]
    noise = fitcore.fit(model, **arguments, verbose=0, noise=config).noise
    return model, arguments, before, noise


def compare(case: NoiseCase, config: GradientNoise | None = None) -> Compared:
    """Measure a case and compare its last step with brute force."""
    config = config or GradientNoise(estimator="per_example")
    model, arguments, before, noise = measure(case, config)
    rows = len(keras.tree.flatten(arguments["x"])[0])
    last = slice((len(noise.step) - 1) * arguments["batch_size"], rows)
    if len(noise.step) == 1:  # otherwise random generators have moved on; such cases have none
        for variable, value in zip(variables_of(model), before):
            variable.assign(value)

    def cut(nest: Any) -> Any:
        return keras.tree.map_structure(lambda leaf: None if leaf is None else np.asarray(leaf)[last], nest)

    variables = model.trainable_variables
    data = [cut(arguments.get(name)) for name in ("x", "y", "sample_weight")]
    gradients = per_example_gradients(model, data, variables)
    expected = by_layer(gradients, variables)
    errors = {}
    for layer, (trace, norm, batch_norm) in expected.items():
        if any(part in layer for part in case.uncompared) or (layer not in noise.layers and trace == 0.0):
            continue
        measured = noise.layers[layer]
        errors[layer] = max(abs(measured.trace[-1] - trace) / trace, abs(measured.grad_norm_sq[-1] - norm) / batch_norm)
    layer = max(errors, key=lambda name: errors[name] if np.isfinite(errors[name]) else np.inf)
    return Compared(float(errors[layer]), layer, dict(noise.how))
