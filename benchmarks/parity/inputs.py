"""Kinds of data."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from benchmarks.parity.setup import PARTIAL, Setup, case, dataset, images, mlp, regression, stack, tokens, two_heads


@case
def dataset_of_known_size() -> Setup:
    """A tf.data.Dataset of known size."""
    return mlp(), {"x": dataset().batch(32), "epochs": 2}


@case
def dataset_reshuffled_each_epoch() -> Setup:
    """A tf.data.Dataset that reshuffles in each epoch."""
    return mlp(), {"x": dataset().shuffle(PARTIAL, seed=3).batch(32, drop_remainder=True), "epochs": 3}


@case
def dataset_of_unknown_size() -> Setup:
    """A tf.data.Dataset of unknown size."""
    return mlp(), {"x": dataset().filter(lambda x, y: x[0] > 0).batch(32), "epochs": 3}


@case
def dataset_from_generator() -> Setup:
    """A tf.data.Dataset from a generator."""
    data = regression()
    specs = (tf.TensorSpec((6,), tf.float32), tf.TensorSpec((1,), tf.float32))
    rows = tf.data.Dataset.from_generator(lambda: zip(data["x"], data["y"]), output_signature=specs)
    return mlp(), {"x": rows.batch(32), "epochs": 2}


@case
def dataset_repeated() -> Setup:
    """An endless tf.data.Dataset with steps_per_epoch."""
    return mlp(), {"x": dataset().shuffle(PARTIAL, seed=3).repeat().batch(32), "epochs": 3, "steps_per_epoch": 5}


@case
def dataset_shorter_than_steps_per_epoch() -> Setup:
    """A tf.data.Dataset that runs out before steps_per_epoch."""
    return mlp(), {"x": dataset().batch(32), "epochs": 3, "steps_per_epoch": 9}


class Batches(keras.utils.PyDataset):
    """The regression data, batch by batch; Keras shuffles the batches."""

    def __len__(self) -> int:
        return -(-PARTIAL // 32)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        data, rows = regression(), slice(32 * index, 32 * (index + 1))
        return data["x"][rows], data["y"][rows]


@case
def py_dataset() -> Setup:
    """A PyDataset, its batches shuffled."""
    return mlp(), {"x": Batches(), "epochs": 3, "shuffle": True}


@case
def python_generator() -> Setup:
    """A Python generator with steps_per_epoch."""

    def batches() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        data, random = regression(), np.random.default_rng(1)
        while True:
            rows = random.integers(0, PARTIAL, 16)
            yield data["x"][rows], data["y"][rows]

    return mlp(), {"x": batches(), "epochs": 2, "steps_per_epoch": 5}


@case
def tensors() -> Setup:
    """TensorFlow tensors."""
    data = regression()
    return mlp(), {name: tf.constant(value) for name, value in data.items()} | {"epochs": 2, "validation_split": 0.2}


@case
def pandas_frames() -> Setup:
    """A pandas DataFrame and Series, a Series of sample weights."""
    import pandas as pd

    data = regression()
    weights = pd.Series(np.linspace(0, 1, PARTIAL))
    x, y = pd.DataFrame(data["x"], columns=list("abcdef")), pd.Series(data["y"][:, 0])
    return mlp(), {"x": x, "y": y, "sample_weight": weights, "epochs": 2}


@case
def nested_structure() -> Setup:
    """Tuples and dicts of arrays, nested."""
    inputs = ({"a": keras.Input((2,)), "b": keras.Input((1,))}, [keras.Input((3,))])
    hidden = layers.Concatenate()([inputs[0]["a"], inputs[0]["b"], inputs[1][0]])
    model = keras.Model(inputs, layers.Dense(1)(layers.Dropout(0.2)(hidden)))
    model.compile("adam", "mse")
    data = regression()
    x = data["x"]
    return model, {"x": ({"a": x[:, :2], "b": x[:, 2:3]}, [x[:, 3:]]), "y": data["y"], "epochs": 2}


@case
def dicts_in_dataset() -> Setup:
    """Nested dicts in a tf.data.Dataset."""
    model, data = two_heads()
    rows = tf.data.Dataset.from_tensor_slices((data["x"], data["y"])).batch(32)
    return model, {"x": rows, "epochs": 2, "validation_data": rows.take(2)}


def few_nonzeros() -> tf.SparseTensor:
    return tf.sparse.from_dense(np.where(regression()["x"] > 0.5, regression()["x"], 0.0))


@case
def sparse_tensor() -> Setup:
    """A SparseTensor as x."""
    inputs = keras.Input((6,), sparse=True)
    model = keras.Model(inputs, layers.Dense(1)(layers.Dense(8, activation="relu")(inputs)))
    model.compile("adam", "mse")
    return model, {"x": few_nonzeros(), "y": regression()["y"], "epochs": 2, "shuffle": False}


@case
def sparse_tensors_in_dataset() -> Setup:
    """SparseTensors in a tf.data.Dataset."""
    inputs = keras.Input((6,), sparse=True)
    model = keras.Model(inputs, layers.Dense(1)(layers.Dense(8, activation="relu")(inputs)))
    model.compile("adam", "mse")
    rows = tf.data.Dataset.from_tensor_slices((few_nonzeros(), regression()["y"])).batch(32)
    return model, {"x": rows, "epochs": 2}


class OfRows(keras.Model):
    """The mean of embedded words, rows of any length."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.head = layers.Embedding(20, 4), layers.Dense(1, activation="sigmoid")

    def call(self, x: Any) -> Any:
        dense = x.to_tensor() if isinstance(x, tf.RaggedTensor) else x
        return self.head(keras.ops.mean(self.words(dense), axis=1))


def ragged() -> tf.RaggedTensor:
    return tf.RaggedTensor.from_tensor(tokens(PARTIAL)["x"], lengths=[1 + i % 6 for i in range(PARTIAL)])


@case
def ragged_tensor() -> Setup:
    """A RaggedTensor as x."""
    model = OfRows()
    model.compile("adam", "binary_crossentropy")
    return model, {"x": ragged(), "y": tokens(PARTIAL)["y"], "epochs": 2}


@case
def ragged_tensors_in_dataset() -> Setup:
    """RaggedTensors in a tf.data.Dataset."""
    model = OfRows()
    model.compile("adam", "binary_crossentropy")
    rows = tf.data.Dataset.from_tensor_slices((ragged(), tokens(PARTIAL)["y"])).batch(32)
    return model, {"x": rows, "epochs": 2}


@case
def batches_of_varying_length() -> Setup:
    """Sequences whose length changes from batch to batch."""
    model = OfRows()
    model.compile("adam", "binary_crossentropy")
    rows = tf.data.Dataset.from_tensor_slices((ragged(), tokens(PARTIAL)["y"]))
    rows = rows.map(lambda x, y: (tf.identity(x), y)).padded_batch(32, padded_shapes=([None], [1]))
    return model, {"x": rows, "epochs": 2}


@case
def float64_arrays() -> Setup:
    """float64 arrays under float32 layers."""
    return mlp(), {name: value.astype("float64") for name, value in regression().items()} | {"epochs": 2}


@case
def integer_arrays() -> Setup:
    """int64 features and int32 targets."""
    data = regression()
    return mlp(), {"x": (4 * data["x"]).astype("int64"), "y": (4 * data["y"]).astype("int32"), "epochs": 2}


@case
def boolean_arrays() -> Setup:
    """Boolean features and targets."""
    data = regression()
    model = mlp(1, "sigmoid", loss="binary_crossentropy", metrics=["accuracy"])
    return model, {"x": data["x"] > 0, "y": data["y"] > 0, "epochs": 2}


@case
def byte_images() -> Setup:
    """uint8 images, rescaled in the model."""
    data = images(PARTIAL)
    body = (layers.Rescaling(1 / 255), layers.Conv2D(4, 3, activation="relu"), layers.Flatten(), layers.Dense(3))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model = stack(*body, shape=(8, 8, 1), loss=loss)
    return model, {"x": (40 * data["x"] + 120).clip(0, 255).astype("uint8"), "y": data["y"], "epochs": 2}


@case
def py_dataset_with_workers() -> Setup:
    """A PyDataset served by two threads."""
    return mlp(), {"x": Batches(workers=2, max_queue_size=3), "epochs": 3, "shuffle": True}


class Growing(Batches):
    """Changes its data after each epoch, and says how often it did."""

    ends = 0

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        x, y = super().__getitem__(index)
        return x + 0.1 * self.ends, y

    def on_epoch_end(self) -> None:
        self.ends += 1


@case
def py_dataset_that_changes() -> Setup:
    """A PyDataset whose on_epoch_end changes its data, one for validation too."""
    return mlp(), {"x": Growing(), "epochs": 3, "shuffle": False, "validation_data": Growing()}


@case
def py_dataset_in_processes() -> Setup:
    """A PyDataset served by two processes (use_multiprocessing)."""
    return mlp(), {"x": Batches(workers=2, use_multiprocessing=True), "epochs": 2, "shuffle": False}


class Endless(Batches):
    def __len__(self) -> Any:
        return None

    @property
    def num_batches(self) -> None:
        return None

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        return super().__getitem__(index % 7)


@case
def py_dataset_without_end() -> Setup:
    """A PyDataset without end, steps_per_epoch."""
    return mlp(), {"x": Endless(), "epochs": 3, "steps_per_epoch": 4}


def batches(random_seed: int, count: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    data, random = regression(), np.random.default_rng(random_seed)
    for _ in range(count):
        rows = random.integers(0, PARTIAL, 16)
        yield data["x"][rows], data["y"][rows]


@case
def python_generator_to_its_end() -> Setup:
    """A Python generator that ends, without steps_per_epoch."""
    return mlp(), {"x": batches(1, 7)}


@case
def python_generator_for_validation() -> Setup:
    """A Python generator as validation data: the first epoch uses it up, later ones see the two batches Keras keeps."""
    return mlp(), regression() | {"epochs": 3, "validation_data": batches(2, 7)}


@case
def validation_dataset_without_end() -> Setup:
    """An endless tf.data.Dataset as validation data, with validation_steps."""
    return mlp(), regression() | {"epochs": 3, "validation_data": dataset(70).repeat().batch(16), "validation_steps": 3}
