"""What `benchmarks.hunt` found, made small: one test for each kind."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from cuts import Cut, Cutting
from keras import layers
from models import state

import fitcore

X = np.random.default_rng(0).normal(size=(22, 5, 3)).astype("float32")
Y = X[:, 0, :1] * X[:, -1, 1:2]


def seeded(make: Callable[[], keras.Model]) -> keras.Model:
    keras.utils.clear_session()
    keras.utils.set_random_seed(1234)
    return make()


def trained(make: Callable[[], keras.Model], by: Any, x: Any = X, y: Any = Y, **arguments: Any) -> tuple[list[bytes], Any]:
    """Every byte that two epochs change, and what evaluating gives afterwards."""
    model = seeded(make)
    by.fit(model, x, y, epochs=2, verbose=0, **arguments)
    return list(state(model).values()), by.evaluate(model, X, Y, batch_size=4, verbose=0)


def compiled(body: list[layers.Layer], loss: Any = "mse", optimizer: Any = "sgd", **arguments: Any) -> keras.Model:
    model = keras.Sequential([keras.Input((5, 3)), *body])
    model.compile(optimizer, loss, **arguments)
    return model


@pytest.mark.parametrize("activation", ["hard_swish", "gelu", "silu"])
def test_loops_over_time_of_an_activation_that_multiplies_by_numbers(activation: str) -> None:
    """Written out, its numbers would be gathered from one time to the next."""

    def make() -> keras.Model:
        return compiled([layers.LayerNormalization(), layers.SimpleRNN(3, activation=activation), layers.Dense(1)])

    assert trained(make, fitcore, batch_size=4) == trained(make, keras.Model, batch_size=4)


def test_a_product_of_three() -> None:
    """TensorFlow puts the factors in the order of names, the batch's among them."""
    rng = np.random.default_rng(81)
    x, y = (rng.normal(size=shape).astype("float32") for shape in ((16, 5, 3), (16, 1, 2)))

    def evaluated(by: Any) -> Any:
        keras.utils.set_random_seed(1234)
        inputs = keras.Input((5, 3))
        product = layers.Multiply()([inputs, layers.Dense(3, activation="hard_swish")(inputs)])
        spectrum = layers.STFTSpectrogram(mode="log", frame_length=4, frame_step=2, fft_length=4)(product)
        model = keras.Model(inputs, layers.Dense(2)(spectrum))
        model.compile("sgd", "mse")
        by.fit(model, x, y, batch_size=4, epochs=2, verbose=0)
        return list(state(model).values()), by.evaluate(model, x, y, batch_size=4, verbose=0)

    assert evaluated(fitcore) == evaluated(keras.Model)


def test_a_number_that_the_noise_needs_too() -> None:
    """Of two equal numbers TensorFlow keeps one, and adds the terms in the order of their names."""
    rng = np.random.default_rng(809)
    x, y = rng.normal(size=(4, 32)).astype("float32"), rng.integers(0, 2, size=(4, 1)).astype("float64")

    def dice(by: Any, **noise: Any) -> list[bytes]:
        keras.utils.set_random_seed(1234)
        model = keras.Sequential([keras.Input((32,)), layers.Dense(1)])
        model.compile("sgd", keras.losses.Dice())
        by.fit(model, x, y, batch_size=4, verbose=0, **noise)
        return list(state(model).values())

    kept = dice(keras.Model)
    assert dice(fitcore, noise=True) == kept
    assert dice(fitcore, noise=fitcore.GradientNoise("split", splits=2)) == kept


def test_run_eagerly_an_optimizer_begins_as_in_keras_with_a_checkpoint_too(tmp_path: Path) -> None:
    """This one copies the weights when it is built; built while a step is traced it would never do so."""
    if not hasattr(keras.optimizers, "ScheduleFreeAdamW"):
        pytest.skip("this Keras has no optimizer whose state begins from the weights")

    def make() -> keras.Model:
        optimizer = keras.optimizers.ScheduleFreeAdamW(0.01)
        return compiled([layers.Flatten(), layers.Dense(1)], optimizer=optimizer, run_eagerly=True)

    checkpoint = fitcore.Checkpoint(tmp_path, every="2 steps")
    assert trained(make, fitcore, batch_size=4, checkpoint=checkpoint) == trained(make, keras.Model, batch_size=4)


class Batches(keras.utils.PyDataset):
    """Batches of 4, which Keras puts in an order of Python's generator."""

    def __len__(self) -> int:
        return 5

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        return X[4 * index : 4 * index + 4], Y[4 * index : 4 * index + 4]


def test_an_order_drawn_after_layers_were_built(tmp_path: Path) -> None:
    """Initializers draw their seeds from Python's generator, in the trace of the first step; then the order is drawn."""

    def make() -> keras.Model:
        model = keras.Sequential([layers.Flatten(), layers.SpectralNormalization(layers.Dense(4)), layers.Dense(1)])
        model.compile("sgd", "mse")
        return model

    def resumed(after: int | None) -> list[bytes]:
        model = seeded(make)
        checkpoint = fitcore.Checkpoint(tmp_path, every="2 steps")
        fitcore.fit(model, Batches(), epochs=2, verbose=0, checkpoint=checkpoint, hooks=[Cutting(after)])
        return list(state(model).values())

    kept = seeded(make)
    kept.fit(Batches(), epochs=2, verbose=0)
    with pytest.raises(Cut):
        resumed(3)
    assert resumed(None) == list(state(kept).values())
