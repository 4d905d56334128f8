"""numerics="fast": convolutions and maxima over windows as XLA programs compute them on a CPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import fitcore
from fitcore import convolutions
from fitcore.noise import convolutions as noise_convolutions


def numbers(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype("float32")


LAYERS: dict[str, tuple[Callable[[], list[Any]], tuple[int, ...]]] = {
    "valid, then overlapping maxima": (lambda: [layers.Conv2D(4, 3, activation="relu"), layers.MaxPooling2D(3, 2)], (9, 8, 2)),
    "same, strides": (lambda: [layers.Conv2D(3, (3, 2), (2, 1), "same"), layers.MaxPooling2D(2, padding="same")], (9, 8, 2)),
    "no bias, dilation, many values in a patch": (lambda: [layers.Conv2D(3, 3, dilation_rate=2, use_bias=False)], (9, 8, 8)),
    "one position": (lambda: [layers.Conv2D(4, 1, 2), layers.MaxPooling2D()], (9, 8, 3)),
    "1D": (lambda: [layers.Conv1D(4, 3, padding="same"), layers.MaxPooling1D()], (9, 2)),
    "3D": (lambda: [layers.Conv3D(2, 2, padding="same"), layers.MaxPooling3D(2)], (5, 4, 3, 2)),
    "left to XLA": (lambda: [layers.Conv1D(4, 3, padding="causal"), layers.Conv1D(4, 3, groups=2)], (9, 2)),
}


def trained(name: str, how: dict[str, Any], noise: bool) -> tuple[np.ndarray, Any]:
    """(the update of a step, the history)."""
    body, shape = LAYERS[name]
    keras.utils.set_random_seed(7)
    model = keras.Sequential([keras.Input(shape), *body(), layers.Flatten(), layers.Dense(1)])
    model.compile(keras.optimizers.SGD(0.1), "mse")
    start, x = model.get_weights(), numbers(6, *shape)
    history = fitcore.fit(model, x, x.reshape(6, -1)[:, :1], batch_size=6, verbose=0, noise=noise, **how)
    return np.concatenate([(a - b).ravel() for a, b in zip(model.get_weights(), start)]), history


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("name", LAYERS)
def test_convolutions_stay_by_exact(name: str, large: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if large:  # a product for each row of the kernel
        monkeypatch.setattr(noise_convolutions, "SIDE_BY_SIDE", 0)
        monkeypatch.setattr(noise_convolutions, "FEW_CHANNELS", 4)
    exact, ours = trained(name, {}, noise=True)
    for noise in (False, True):
        fast, theirs = trained(name, {"numerics": "fast", "plan": "xla"}, noise)
        assert np.linalg.norm(fast - exact) < 1e-5 * np.linalg.norm(exact)
    for key in ("noise/trace", "noise/grad_norm_sq"):
        np.testing.assert_allclose(theirs.steps[key], ours.steps[key], rtol=1e-3, err_msg=key)


def kinds(layer: Any, x: Any, watched: bool = False) -> set[str]:
    """The ops of a layer's call and its gradients, computed as for XLA."""

    @tf.function
    def step(x: tf.Tensor) -> Any:
        with tf.GradientTape() as tape, convolutions.by_products(keras.Sequential([layer])):
            tape.watch(x)
            if watched:
                vars(layer)["call"] = layer.call
            loss = tf.reduce_sum(layer(x) ** 2)
            if watched:
                del vars(layer)["call"]
        return tape.gradient(loss, [x, *layer.trainable_variables])

    layer.build(x.shape)
    return {op.type for op in step.get_concrete_function(x).graph.get_operations()}


def test_no_convolution_is_left_and_examples_share_their_products() -> None:
    x = tf.constant(numbers(6, 9, 8, 2))
    plain, watched = kinds(layers.Conv2D(4, 3), x), kinds(layers.Conv2D(4, 3), x, watched=True)
    assert not [kind for kind in plain | watched if "Conv" in kind]
    assert "MatMul" in plain
    assert "BatchMatMulV2" not in plain
    assert "BatchMatMulV2" in watched
    assert not [kind for kind in kinds(layers.MaxPooling2D(), x) if "Pool" in kind]


def test_what_takes_much_memory_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convolutions, "PATCH_BYTES", 6 * 7 * 6 * 18 * 4 - 1)
    assert "Conv2D" in kinds(layers.Conv2D(4, 3), tf.constant(numbers(6, 9, 8, 2)))


def test_a_convolution_of_ones_own_is_kept() -> None:
    class Doubled(layers.Conv2D):  # type: ignore[misc]
        def convolution_op(self, inputs: Any, kernel: Any) -> Any:
            return 2 * super().convolution_op(inputs, kernel)

    assert "Conv2D" in kinds(Doubled(4, 3), tf.constant(numbers(6, 9, 8, 2)))


@pytest.mark.parametrize("layer", [layers.MaxPooling2D(), layers.MaxPooling2D(3, 2, "same"), layers.MaxPooling2D((2, 3), 1)])
def test_of_equal_maxima_the_first_gets_the_gradient(layer: Any) -> None:
    x = tf.constant(np.random.default_rng(0).integers(-1, 2, (2, 7, 8, 3)).astype("float32"))

    def gradient() -> Any:
        with tf.GradientTape() as tape:
            tape.watch(x)
            out = layer(x)
            loss = tf.reduce_sum(out * tf.reshape(tf.range(tf.size(out), dtype=tf.float32), out.shape))
        return tape.gradient(loss, x)

    whole = gradient()
    with convolutions.by_products(keras.Sequential([layer])):
        np.testing.assert_array_equal(gradient(), whole)
