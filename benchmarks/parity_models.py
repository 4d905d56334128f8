"""Cases of the parity command: kinds of model. And what all cases share: how one is made, data, small models.

To add a case, here or in `parity_cases.py`, write a function under `@case`; its name is the case's name. It is called anew
for each run, right after `keras.utils.set_random_seed`, and returns a fresh compiled model and fit's arguments. Nothing is
shared between runs: build models, optimizers and callbacks inside it. It may change Keras's dtype policy and floatx; they
are put back. Cases are small on purpose: each is trained three times.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers

Setup = tuple[keras.Model, dict[str, Any]]  # a compiled model, and what to call fit with (`verbose=0` comes on top)

WHOLE = 192  # rows that make whole batches of 32: batches then have a static first dimension in Keras's graph
PARTIAL = 200  # rows that leave a partial last batch: the dimension is unknown, and last bits differ


@dataclass(frozen=True)
class Case:
    """A way to train: `build()` makes the model and fit's arguments afresh."""

    name: str
    build: Callable[[], Setup]


CASES: dict[str, Case] = {}


def case(build: Callable[[], Setup]) -> Callable[[], Setup]:
    """Register a function as the case of its name."""
    CASES[build.__name__] = Case(build.__name__, build)
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


def sequences(rows: int) -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    x = random.normal(size=(rows, 5, 3)).astype("float32")
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


# --- kinds of model -------------------------------------------------------------------------------------------------------


@case
def mlp_dropout() -> Setup:
    return mlp(), regression(WHOLE) | {"epochs": 3}


@case
def mlp_dropout_partial_batch() -> Setup:
    return mlp(), regression(PARTIAL) | {"epochs": 3}


def cnn() -> keras.Model:
    body = (layers.Conv2D(4, 3, activation="relu"), layers.BatchNormalization(), layers.MaxPooling2D(), layers.Flatten())
    head = (layers.Dropout(0.3), layers.Dense(3, activation="softmax"))
    return stack(*body, *head, shape=(8, 8, 1), loss="sparse_categorical_crossentropy", metrics=["accuracy"])


@case
def cnn_batchnorm() -> Setup:
    return cnn(), images(WHOLE) | {"epochs": 2}


@case
def cnn_batchnorm_partial_batch() -> Setup:
    return cnn(), images(PARTIAL) | {"epochs": 2}


@case
def lstm_dropout() -> Setup:
    return stack(layers.LSTM(6, dropout=0.2), layers.Dense(1), shape=(5, 3)), sequences(PARTIAL) | {"epochs": 2}


@case
def gru() -> Setup:
    return stack(layers.GRU(6), layers.Dense(1), shape=(5, 3)), sequences(WHOLE) | {"epochs": 2}


@case
def stateful_rnn() -> Setup:
    model = keras.Sequential([keras.Input(batch_shape=(20, 5, 3)), layers.GRU(6, stateful=True), layers.Dense(1)])
    model.compile("adam", "mse")
    return model, sequences(PARTIAL) | {"epochs": 2, "batch_size": 20, "shuffle": False}


def attention() -> keras.Model:
    inputs = keras.Input((6,))
    words = layers.Embedding(20, 8)(inputs)
    words += layers.MultiHeadAttention(2, 4, dropout=0.2)(words, words)
    model = keras.Model(inputs, layers.Dense(1, activation="sigmoid")(layers.GlobalAveragePooling1D()(words)))
    model.compile("adam", "binary_crossentropy")
    return model


@case
def attention_dropout() -> Setup:
    return attention(), tokens(WHOLE) | {"epochs": 2}


@case
def attention_dropout_partial_batch() -> Setup:
    return attention(), tokens(PARTIAL) | {"epochs": 2}


@case
def embedding_sparse_gradients() -> Setup:
    """Rows that a batch doesn't meet get no gradient (`IndexedSlices`), and Adam moves them all the same."""
    body = (layers.Embedding(40, 4), layers.Flatten(), layers.Dense(1, activation="sigmoid"))
    return stack(*body, loss="binary_crossentropy"), tokens(PARTIAL) | {"epochs": 2}


@case
def dict_inputs_and_outputs() -> Setup:
    inputs = {"left": keras.Input((4,), name="left"), "right": keras.Input((2,), name="right")}
    hidden = layers.Dropout(0.2)(layers.Dense(8, activation="relu")(layers.Concatenate()(list(inputs.values()))))
    outputs = {
        "value": layers.Dense(1, name="value")(hidden),
        "kind": layers.Dense(3, activation="softmax", name="kind")(hidden),
    }
    model = keras.Model(inputs, outputs)
    model.compile(
        "adam",
        loss={"value": "mse", "kind": "sparse_categorical_crossentropy"},
        loss_weights={"value": 0.7, "kind": 0.3},
        metrics={"value": ["mae", "mse"], "kind": ["accuracy"]},
    )
    value, kind = regression(), classification()
    x = {"left": value["x"][:, :4], "right": value["x"][:, 4:]}
    return model, {"x": x, "y": {"value": value["y"], "kind": kind["y"]}, "epochs": 2, "validation_split": 0.2}


@case
def list_inputs() -> Setup:
    inputs = [keras.Input((4,)), keras.Input((2,))]
    model = keras.Model(inputs, layers.Dense(1)(layers.Dropout(0.2)(layers.Concatenate()(inputs))))
    model.compile("adam", "mse")
    data = regression()
    return model, {"x": [data["x"][:, :4], data["x"][:, 4:]], "y": data["y"], "epochs": 2}


@case
def regularizers() -> Setup:
    hidden = layers.Dense(8, activation="relu", kernel_regularizer=keras.regularizers.L1(1e-3), bias_regularizer="l2")
    return stack(hidden, layers.Dense(1, kernel_regularizer=keras.regularizers.L1L2(1e-3, 1e-2))), regression() | {"epochs": 2}


class Penalty(layers.Layer):
    """Adds a loss of its own."""

    def call(self, x: tf.Tensor) -> tf.Tensor:
        self.add_loss(0.01 * keras.ops.mean(keras.ops.square(x)))
        return x


@case
def add_loss_and_activity_regularizer() -> Setup:
    hidden = layers.Dense(8, activation="relu", activity_regularizer=keras.regularizers.L2(1e-2))
    return stack(hidden, Penalty(), layers.Dense(1)), regression() | {"epochs": 2, "validation_split": 0.2}


@case
def frozen_layer() -> Setup:
    return stack(layers.Dense(8, activation="relu", trainable=False), layers.Dense(1)), regression() | {"epochs": 2}


@case
def no_trainable_weights() -> Setup:
    return stack(layers.Dropout(0.3), layers.Dense(1, trainable=False), metrics=["mae"]), regression() | {"epochs": 2}


class Lazy(keras.Model):
    """Subclassed; built when it sees its first batch."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.dropout, self.head = layers.Dense(8, activation="relu"), layers.Dropout(0.3), layers.Dense(1)

    def call(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        return self.head(self.dropout(self.hidden(x), training=training))


@case
def subclassed_lazily_built() -> Setup:
    model = Lazy()
    model.compile("adam", "mse")
    return model, regression() | {"epochs": 2}


class OwnTrainStep(keras.Model):
    def train_step(self, data: Any) -> dict[str, Any]:
        x, y = data
        with tf.GradientTape() as tape:
            y_pred = self(x, training=True)
            loss = self.compute_loss(y=y, y_pred=y_pred) + 0.1 * keras.ops.mean(keras.ops.abs(y_pred))
        self.optimizer.apply(tape.gradient(loss, self.trainable_variables), self.trainable_variables)
        return {"own_loss": loss} | self.compute_metrics(x, y, y_pred)


@case
def own_train_step() -> Setup:
    return functional(OwnTrainStep), regression() | {"epochs": 2, "validation_split": 0.2}


class OwnComputeLoss(keras.Model):
    def compute_loss(self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None) -> tf.Tensor:
        return keras.ops.mean(keras.ops.abs(y - y_pred)) + 0.01 * keras.ops.mean(keras.ops.square(y_pred))


@case
def own_compute_loss() -> Setup:
    return functional(OwnComputeLoss), regression() | {"epochs": 2, "validation_split": 0.2}
