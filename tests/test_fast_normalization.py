"""numerics="fast": normalizations as XLA programs compute them on a CPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import fitcore
from fitcore import normalization

LAYERS: dict[str, Callable[[], keras.Layer]] = {
    "over the last axis": layers.LayerNormalization,
    "its axis as a list": lambda: layers.LayerNormalization(axis=[2], center=False),
    "without a scale": lambda: layers.LayerNormalization(scale=False),
    "over two axes": lambda: layers.LayerNormalization(axis=[1, 2]),
    "of the batch": layers.BatchNormalization,
    "of the batch, without a scale": lambda: layers.BatchNormalization(scale=False),
    "of the batch, without an offset": lambda: layers.BatchNormalization(center=False),
    "of the batch, of the first axis": lambda: layers.BatchNormalization(axis=1),
    "of the batch, frozen": lambda: layers.BatchNormalization(trainable=False),
}


@pytest.fixture(autouse=True)
def few_rows_are_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(normalization, "ROWS", 1)


def numbers(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype("float32")


@pytest.mark.parametrize("name", LAYERS)
def test_normalizations_stay_by_exact(name: str) -> None:
    updates: list[np.ndarray] = []  # the moving averages too
    curves, hows = [], []
    for how in ({}, {"numerics": "fast", "plan": "xla"}):
        keras.utils.set_random_seed(7)
        body = [layers.Dense(3), LAYERS[name](), layers.Flatten(), layers.Dense(1)]
        model = keras.Sequential([keras.Input((4, 3)), *body])
        model.compile(keras.optimizers.SGD(0.1), "mse")
        start, x = model.get_weights(), numbers(6, 4, 3)
        history = fitcore.fit(model, x, x[:, :1, 0], batch_size=6, verbose=0, noise=True, **how)
        updates.append(np.concatenate([(a - b).ravel() for a, b in zip(model.get_weights(), start)]))
        curves.append(history.steps["noise/trace"])
        hows.append(list(history.noise.how.values()))
    exact, fast = updates
    assert np.linalg.norm(fast - exact) < 1e-5 * np.linalg.norm(exact)
    np.testing.assert_allclose(curves[1], curves[0], rtol=1e-3)
    assert hows[1] == hows[0]


PRODUCTS = {
    "over the last axis": 1,
    "without a scale": 0,
    "over two axes": 0,
    "of the batch": 4,  # mean and variance, and the gradients of scale and shift
    "of the batch, of the first axis": 0,
    "of the batch, frozen": 0,
}


@pytest.mark.parametrize("name", PRODUCTS)
def test_sums_over_rows_are_products(name: str) -> None:
    layer = LAYERS[name]()
    layer.build((6, 4, 3))

    @tf.function
    def step(x: tf.Tensor) -> Any:
        with tf.GradientTape() as tape, normalization.summed_by_products(keras.Sequential([layer])):
            tape.watch(x)
            loss = tf.reduce_sum(layer(x, training=True) ** 2)
        return tape.gradient(loss, x)

    operations = step.get_concrete_function(tf.TensorSpec((6, 4, 3))).graph.get_operations()
    assert sum(operation.type == "MatMul" for operation in operations) == PRODUCTS[name]
