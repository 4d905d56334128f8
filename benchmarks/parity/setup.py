"""How a case of the parity command is made, and data and small models that cases share.

To add a case, write a function under `@case` in the module of its theme; its name is the case's name, its docstring's first
line the row in PARITY.md. It is called anew for each run, right after `keras.utils.set_random_seed`, and returns a fresh
compiled model and fit's arguments. Nothing is shared between runs: build models, optimizers and callbacks inside it. It may
change Keras's dtype policy and floatx; they are put back. Cases are small on purpose: each is trained three times.

A case that needs more than one fit returns a function in place of fit's arguments. It is given `by`, whose `fit`,
`evaluate`, `train_on_batch` and `test_on_batch` take the model first, and returns by name what else is to be compared.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers

Calls = Callable[[Any], Mapping[str, Any]]
Setup = tuple[keras.Model, dict[str, Any] | Calls]  # a compiled model, and what to do with it

WHOLE = 192  # rows that make whole batches of 32: batches then have a static first dimension in Keras's graph
PARTIAL = 200  # rows that leave a partial last batch: the dimension is unknown, and last bits differ


class Impossible(Exception):
    """Raised by a case that the installed Keras can't run, with the reason."""


@dataclass(frozen=True)
class Case:
    """A way to train: `build()` makes the model and fit's arguments afresh.

    Attributes:
      name: unique.
      build: as said above.
      text: the feature, in a line.
      theme: what its module is about.
    """

    name: str
    build: Callable[[], Setup]
    text: str = ""
    theme: str = ""


CASES: dict[str, Case] = {}


def case(build: Callable[[], Setup]) -> Callable[[], Setup]:
    """Register a function as the case of its name."""
    text, theme = build.__doc__ or "", sys.modules[build.__module__].__doc__ or ""
    name = build.__name__
    assert name not in CASES, name
    CASES[name] = Case(name, build, text.splitlines()[0].rstrip("."), theme.splitlines()[0].rstrip("."))
    return build


# --- data and models that several cases share -----------------------------------------------------------------------------


def regression(rows: int = PARTIAL) -> dict[str, np.ndarray]:
    """Random features, and a target that depends on them."""
    random = np.random.default_rng(0)
    x = random.normal(size=(rows, 6)).astype("float32")
    y = np.tanh(x[:, :1]) - 0.5 * x[:, 1:2] * x[:, 2:3]
    return {"x": x, "y": y + 0.1 * random.normal(size=(rows, 1)).astype("float32")}


def classification(rows: int = PARTIAL, classes: int = 3) -> dict[str, np.ndarray]:
    """Random features, and the class of the largest of the first few."""
    x = regression(rows)["x"]
    return {"x": x, "y": x[:, :classes].argmax(axis=1)}


def images(rows: int) -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    return {"x": random.normal(size=(rows, 8, 8, 1)).astype("float32"), "y": random.integers(0, 3, rows)}


def sequences(rows: int, times: int = 5) -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    x = random.normal(size=(rows, times, 3)).astype("float32")
    return {"x": x, "y": x.mean(axis=(1, 2))[:, None]}


def tokens(rows: int) -> dict[str, np.ndarray]:
    x = np.random.default_rng(0).integers(0, 20, size=(rows, 6))
    return {"x": x, "y": (x[:, 0] > x[:, 1]).astype("float32")[:, None]}


def dataset(rows: int = PARTIAL) -> tf.data.Dataset:
    """The regression data row by row, as a `tf.data.Dataset`."""
    data = regression(rows)
    return tf.data.Dataset.from_tensor_slices((data["x"], data["y"]))


def stack(*body: keras.Layer, shape: tuple[int, ...] = (6,), loss: str = "mse", **compile_arguments: Any) -> keras.Model:
    """A compiled Sequential model of these layers; Adam unless another optimizer is given."""
    model = keras.Sequential([keras.Input(shape), *body])
    model.compile(**{"optimizer": "adam", "loss": loss} | compile_arguments)
    return model


def mlp(units: int = 1, activation: str | None = None, **compile_arguments: Any) -> keras.Model:
    body = (layers.Dense(8, activation="relu"), layers.Dropout(0.3), layers.Dense(units, activation=activation))
    return stack(*body, **compile_arguments)


def classifier(**compile_arguments: Any) -> keras.Model:
    return mlp(3, "softmax", loss="sparse_categorical_crossentropy", **compile_arguments)


def functional(kind: type[keras.Model] = keras.Model) -> keras.Model:
    """The same MLP as a functional model of class `kind`, with a metric."""
    inputs = keras.Input((6,))
    hidden = layers.Dropout(0.3)(layers.Dense(8, activation="relu")(inputs))
    model = kind(inputs, layers.Dense(1)(hidden))
    model.compile("adam", "mse", metrics=["mae"])
    return model


def two_heads(**compile_arguments: Any) -> tuple[keras.Model, dict[str, Any]]:
    """A model of dicts of inputs and outputs, and its data: x and y."""
    inputs = {"left": keras.Input((4,), name="left"), "right": keras.Input((2,), name="right")}
    hidden = layers.Dropout(0.2)(layers.Dense(8, activation="relu")(layers.Concatenate()(list(inputs.values()))))
    outputs = {
        "value": layers.Dense(1, name="value")(hidden),
        "kind": layers.Dense(3, activation="softmax", name="kind")(hidden),
    }
    model = keras.Model(inputs, outputs)
    losses = {"value": "mse", "kind": "sparse_categorical_crossentropy"}
    model.compile("adam", loss=losses, loss_weights={"value": 0.7, "kind": 0.3}, **compile_arguments)
    value, kind = regression(), classification()
    x = {"left": value["x"][:, :4], "right": value["x"][:, 4:]}
    return model, {"x": x, "y": {"value": value["y"], "kind": kind["y"]}}
