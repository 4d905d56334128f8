"""Noise by splitting runs the loss and the layers again: what they assign then is put back, or the fit is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from models import data
from outside_state import (
    Centered,
    Drifting,
    assigned,
    assigned_in_branch,
    assigned_in_function,
    dense_table,
    generator,
    iterator,
    queue,
    table,
    with_loss,
)

import fitcore

SPLITS = {
    "each step": fitcore.GradientNoise("split", splits=2),
    "every other step": fitcore.GradientNoise("split", splits=2, every=2),
    "with the Hessian": fitcore.GradientNoise("split", splits=2, hessian_every=2),
}


def extra(make: Callable[[], Callable[[Any], Any]]) -> Callable[[Any, Any], Any]:
    """A loss that adds what this gives."""
    add = make()
    return lambda y, p: tf.reduce_mean((p - y - add(tf.stop_gradient(tf.reduce_mean(p)))) ** 2, -1)


MODELS: dict[str, Callable[[], keras.Model]] = {
    "variable": lambda: with_loss(Centered(assigned)),
    "in a branch": lambda: with_loss(Centered(assigned_in_branch)),
    "in a function": lambda: with_loss(Centered(assigned_in_function)),
    "Keras's variable": lambda: with_loss(Centered(assigned, keras.Variable)),
    "behind Keras's variable": lambda: with_loss(Centered(assigned, lambda value: keras.Variable(value).value)),
    "layer": lambda: with_loss("mse", Drifting(), keras.layers.BatchNormalization(), keras.layers.Dropout(0.3)),
    "generator": lambda: with_loss(extra(generator)),
    "table": lambda: with_loss(extra(table)),
    "dense table": lambda: with_loss(extra(dense_table)),
}


def weights_after(make: Callable[[], keras.Model], fit: Callable[[keras.Model], Any]) -> bytes:
    keras.utils.clear_session()
    keras.utils.set_random_seed(1)
    model = make()
    fit(model)
    return b"".join(weight.tobytes() for weight in model.get_weights())


@pytest.mark.parametrize("name", MODELS)
def test_the_training_is_as_without_noise(name: str) -> None:
    x, y = data(18)
    arguments = {"batch_size": 4, "epochs": 2, "verbose": 0}
    want = weights_after(MODELS[name], lambda model: model.fit(x, y, **arguments))
    for how, noise in SPLITS.items():
        got = weights_after(MODELS[name], lambda model: fitcore.fit(model, x, y, **arguments, noise=noise))  # noqa: B023
        assert got == want, how


@pytest.mark.parametrize("how", SPLITS)
@pytest.mark.parametrize(("make", "kind"), [(queue, "QueueDequeueV2"), (iterator, "IteratorGetNext")])
def test_what_cannot_be_put_back_is_refused_before_training(make: Any, kind: str, how: str) -> None:
    x, y = data(20)
    model = with_loss(extra(make))
    before = [np.array(weight) for weight in model.get_weights()]
    with pytest.raises(ValueError, match=rf"`noise`: .* can't be put back: .*{kind}"):
        fitcore.fit(model, x, y, batch_size=4, verbose=0, noise=SPLITS[how])
    assert all((a == b).all() for a, b in zip(before, model.get_weights()))


def test_python_functions_are_named() -> None:
    model = with_loss(extra(lambda: lambda mean: tf.reshape(tf.py_function(lambda: 0.5, [], tf.float32), [])))
    with pytest.warns(UserWarning, match="tf.py_function"):
        fitcore.fit(model, *data(20), batch_size=4, verbose=0, noise=SPLITS["each step"])
