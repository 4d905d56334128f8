"""Layers that draw from Python's and NumPy's global generators while they are traced, as Keras's AugMix does."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import fitcore
from fitcore.python_draws import Traces

X = np.random.default_rng(0).normal(size=(14, 4)).astype("float32")
Y = np.random.default_rng(1).normal(size=(14, 2)).astype("float32")


class DrawsWhileTraced(keras.layers.Layer):
    """Scales by what Python and NumPy give when the layer is called."""

    def call(self, x: Any, training: bool = False) -> Any:
        return x * (0.5 + random.random() + np.random.rand()) if training else x


def compiled() -> keras.Model:
    keras.utils.clear_session()
    keras.utils.set_random_seed(5)
    model = keras.Sequential([keras.Input((4,)), DrawsWhileTraced(), keras.layers.Dense(2)])
    model.compile("sgd", "mse")
    return model


def left(model: keras.Model) -> list[Any]:
    """The weights, and where the generators are."""
    return [*(each.numpy().tolist() for each in model.variables), random.getstate(), np.random.get_state()[1].tolist()]


GIVEN: dict[str, Any] = {"x": X, "y": Y, "batch_size": 4, "epochs": 2, "verbose": 0}


def expected() -> list[Any]:
    model = compiled()
    for _ in range(2):
        model.fit(**GIVEN)
        model.compile("sgd", "mse")
    return left(model)


@pytest.mark.parametrize(
    "more",
    [{}, {"noise": fitcore.GradientNoise("split", splits=2)}, {"record": {"mine": lambda seen: seen.loss * random.random()}}],
    ids=["alone", "split", "recorder"],
)
def test_what_watches_draws_nothing_of_the_trainings(more: dict[str, Any]) -> None:
    model = compiled()
    for _ in range(2):
        fitcore.fit(model, **GIVEN, **more)
        model.compile("sgd", "mse")
    assert left(model) == expected()


def of_dataset() -> dict[str, Any]:
    return {"x": tf.data.Dataset.from_tensor_slices((X, Y)).batch(4), "epochs": 1, "verbose": 0}


@pytest.mark.parametrize("second", [lambda: GIVEN, of_dataset], ids=["arrays", "dataset"])
@pytest.mark.parametrize("more", [{}, {"record": ["step/loss", "step/gradient_norm"]}], ids=["alone", "records"])
def test_a_further_trace_where_keras_has_one_draws_the_same(second: Callable[[], dict[str, Any]], more: dict[str, Any]) -> None:
    """Keras's step is traced once for both fits; fitcore's for what is recorded, and for each kind of source."""
    wanted = compiled()
    wanted.fit(**GIVEN)
    wanted.fit(**second())
    want = left(wanted)
    model = compiled()
    fitcore.fit(model, **GIVEN)
    fitcore.fit(model, **second(), **more)
    assert left(model) == want


class Killed(Exception):
    pass


class Kills(fitcore.Hook):
    """Ends the fit after so many steps; None: never."""

    def __init__(self, after: int | None) -> None:
        self.when = fitcore.NEVER if after is None else fitcore.When(steps=after, epochs=False)

    def after_steps(self, view: fitcore.View) -> None:
        raise Killed


def test_a_resumed_run_draws_while_traced_what_the_first_one_drew(tmp_path: Any) -> None:
    model = compiled()
    model.fit(**GIVEN, validation_data=(X, Y))
    want = left(model)
    with pytest.raises(Killed):
        fitcore.fit(
            compiled(),
            **GIVEN,
            validation_data=(X, Y),
            checkpoint=fitcore.Checkpoint(tmp_path, every="1 step"),
            hooks=[Kills(3)],
        )
    model = compiled()
    random.seed(99)  # another process: these generators are somewhere else
    np.random.seed(99)
    saved = fitcore.Checkpoint(tmp_path, every="1 step")
    fitcore.fit(model, **GIVEN, validation_data=(X, Y), checkpoint=saved, hooks=[Kills(None)])
    assert left(model) == want


def test_a_trace_that_fails_is_none() -> None:
    traces = Traces()
    with pytest.raises(ValueError, match="mine"), traces.one_more("data"):
        raise ValueError("mine")
    assert traces.began == []
