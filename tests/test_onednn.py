"""oneDNN's kernels in TensorFlow's graphs: by the fast tier where they add up otherwise, by the exact one where they don't."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import fitcore
from fitcore import keras_private
from fitcore.onednn import by_onednn

pytestmark = pytest.mark.skipif(
    not keras_private.has_onednn("Conv2D") or keras_private.onednn_is_on() or bool(tf.config.list_physical_devices("GPU")),
    reason="oneDNN is missing, or on by itself, or there is a GPU",
)


def numbers(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype("float32")


LAYERS: dict[str, Callable[[], list[Any]]] = {
    "convolution": lambda: [layers.Conv2D(4, 3, activation="relu")],
    "strides, same": lambda: [layers.Conv2D(4, (3, 2), (2, 1), "same", use_bias=False)],
    "dilation": lambda: [layers.Conv2D(4, 3, dilation_rate=2)],
    "maxima": lambda: [layers.Conv2D(4, 1), layers.MaxPooling2D(2, padding="same")],
    "batch normalization": lambda: [layers.Conv2D(4, 1, use_bias=False), layers.BatchNormalization()],
    "without scale and offset": lambda: [layers.Conv2D(4, 1), layers.BatchNormalization(scale=False, center=False)],
}
LEFT: dict[str, Callable[[], list[Any]]] = {
    "groups": lambda: [layers.Conv2D(4, 3, groups=2)],
    "windows that overlap": lambda: [layers.MaxPooling2D(3, 2)],
    "another axis": lambda: [layers.BatchNormalization(axis=1)],
    "frozen": lambda: [layers.BatchNormalization(trainable=False)],
    "double precision": lambda: [layers.Conv2D(4, 3, dtype="float64"), layers.MaxPooling2D(dtype="float64")],
}


def trained(body: Callable[[], list[Any]], **how: Any) -> tuple[np.ndarray, set[str]]:
    """(the update of a step, moving averages too, the kinds of oneDNN's ops in the program)."""
    keras.utils.set_random_seed(7)
    model = keras.Sequential([keras.Input((9, 8, 2)), *body(), layers.Flatten(), layers.Dense(1)])
    model.compile(keras.optimizers.SGD(0.1), "mse")
    engine = fitcore.Engine.of_compiled(model)
    start, x = model.get_weights(), numbers(7, 9, 8, 2)
    fitcore.fit(engine, x, x.reshape(7, -1)[:, :1], batch_size=7, verbose=0, **how)
    kinds = {
        node.op.removeprefix("_MklNative")
        for graph in engine.graphs()
        for function in graph.as_graph_def().library.function
        for node in function.node_def
        if node.op.startswith("_MklNative")
    }
    return np.concatenate([(a - b).ravel() for a, b in zip(model.get_weights(), start)]), kinds


@pytest.mark.parametrize("name", LAYERS)
def test_the_fast_tier_stays_by_exact(name: str) -> None:
    exact, before = trained(LAYERS[name])
    fast, kinds = trained(LAYERS[name], numerics="fast", plan="graph")
    assert np.linalg.norm(fast - exact) < 1e-5 * np.linalg.norm(exact)
    assert kinds >= {"Conv2D", "Conv2DBackpropFilter"}
    assert before == ({"MaxPool", "MaxPoolGrad"} if name == "maxima" else set())
    assert ("FusedBatchNormGradV3" in kinds) == any(isinstance(each, layers.BatchNormalization) for each in LAYERS[name]())
    assert ("MaxPoolGrad" in kinds) == (name == "maxima")


@pytest.mark.parametrize("name", LEFT)
def test_what_is_left_to_tensorflow(name: str) -> None:
    assert not trained(LEFT[name], numerics="fast", plan="graph")[1]


def test_noise_leaves_batch_normalization_to_keras() -> None:
    body = LAYERS["batch normalization"]
    assert "FusedBatchNormV3" not in trained(body, numerics="fast", plan="graph", noise=True)[1]


@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.parametrize("values", ["plain", "ties", "infinite", "signed zeros", "not a number"])
def test_maxima_have_the_bits_of_tensorflow(values: str, padding: str) -> None:
    layer, x = layers.MaxPooling2D(padding=padding), numbers(8, 9, 8, 3)
    some = np.random.default_rng(1).random(x.shape) < 0.3
    match values:
        case "ties":
            x = np.round(x)
        case "infinite":
            x[some], x[np.random.default_rng(2).random(x.shape) < 0.1] = -np.inf, np.inf
        case "signed zeros":
            x = np.where(some, np.float32(-0.0), np.float32(0.0))
        case "not a number":
            x[some] = np.nan

    def results(onednn: bool) -> list[bytes]:
        @tf.function
        def run(x: tf.Tensor) -> Any:
            with tf.GradientTape() as tape:
                tape.watch(x)
                with by_onednn(keras.Sequential([layer]), exact=True) if onednn else contextlib.nullcontext():
                    out = layer(x)
                weighed = out * tf.reshape(tf.range(tf.size(out), dtype=tf.float32), out.shape)
            return out, tape.gradient(weighed, x)

        graph = run.get_concrete_function(x).graph.as_graph_def()
        assert onednn == any(node.op == "_MklNativeMaxPool" for node in graph.node)
        return [each.numpy().tobytes() for each in run(tf.constant(x))]

    assert results(onednn=True) == results(onednn=False)


@pytest.mark.parametrize("name", ["strides, same", "maxima", "batch normalization"])
def test_gradients_of_gradients(name: str) -> None:
    """A model may differentiate inside its own call."""
    body = keras.Sequential(LAYERS[name]())
    x = tf.constant(numbers(3, 9, 8, 2))
    body(x)

    def second(onednn: bool) -> Any:
        @tf.function
        def run(x: tf.Tensor) -> Any:
            with tf.GradientTape() as outer:
                outer.watch(x)
                with tf.GradientTape() as inner:
                    inner.watch(x)
                    with by_onednn(body, exact=False) if onednn else contextlib.nullcontext():
                        loss = tf.reduce_sum(body(x, training=True) ** 3)
                of_inputs = inner.gradient(loss, x)
                objective = tf.reduce_sum(of_inputs**2)
            return outer.gradient(objective, [x, *body.trainable_variables])

        return run(x)

    for ours, theirs in zip(second(True), second(False)):
        np.testing.assert_allclose(ours, theirs, atol=2e-3 * np.abs(theirs).max())
