"""How a bad call is written down, and data and small models that calls share.

To add one, put a `Bad` into the list of its theme. The call is made anew for Keras and for fitcore, each right after
`keras.utils.set_random_seed`; `by` has `fit`, `evaluate`, `train_on_batch` and `test_on_batch`, which take the model first and
print nothing. Nothing is shared between the two: build models, generators and callbacks inside it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers


@dataclass(frozen=True)
class Bad:
    """A bad call.

    Attributes:
      text: what is bad, in a line; unique.
      call: makes it, `call(by)`.
      why: why fitcore refuses it, if Keras takes it without a word; else empty.
    """

    text: str
    call: Callable[[Any], Any]
    why: str = ""


# Why fitcore refuses what Keras takes without a word; reasons of one theme alone stand there.
BY_NAME = "what a number means is to be seen where it stands: only `x` and `y` go by position"
TRUTH = "`True` is no count"
FOR_NONE = "Keras takes it for none given"
EMPTY = "nothing would be trained"


class Unforeseen(Exception):
    """What a user's own code raises; not to be made from a message alone."""

    def __init__(self, code: int, *, where: str) -> None:
        super().__init__(code, where)


class Picky(ValueError):
    """Another of a user's own, of a class that fitcore catches in places; not to be made from a message either."""

    def __init__(self, code: int, *, where: str) -> None:
        super().__init__(code, where)


X = np.random.default_rng(0).normal(size=(12, 3)).astype("float32")
Y = X[:, :1] - 0.5 * X[:, 1:2]
LABELS = np.arange(12) % 3
ONE_HOT = np.eye(3, dtype="float32")[LABELS]


def linear(**compile_arguments: Any) -> keras.Model:
    """A compiled Dense(1), the cheapest model there is."""
    return compiled(keras.Sequential([keras.Input((3,)), layers.Dense(1)]), **compile_arguments)


def classifier(loss: str = "sparse_categorical_crossentropy", **compile_arguments: Any) -> keras.Model:
    """Three classes."""
    model = keras.Sequential([keras.Input((3,)), layers.Dense(3, activation="softmax")])
    return compiled(model, loss=loss, **compile_arguments)


def compiled(model: keras.Model, **compile_arguments: Any) -> keras.Model:
    """The model, compiled with SGD and the mean squared error unless told otherwise."""
    model.compile(**{"optimizer": "sgd", "loss": "mse"} | compile_arguments)
    return model


def uncompiled() -> keras.Model:
    return keras.Sequential([keras.Input((3,)), layers.Dense(1)])


def two_inputs() -> keras.Model:
    inputs = {"a": keras.Input((3,), name="a"), "b": keras.Input((3,), name="b")}
    return compiled(keras.Model(inputs, layers.Dense(1)(layers.Concatenate()([*inputs.values()]))))


def two_outputs(**compile_arguments: Any) -> keras.Model:
    inputs = keras.Input((3,))
    outputs = {"a": layers.Dense(1, name="a")(inputs), "b": layers.Dense(1, name="b")(inputs)}
    return compiled(keras.Model(inputs, outputs), **{"loss": {"a": "mse", "b": "mse"}} | compile_arguments)


def dataset(batch_size: int = 4) -> tf.data.Dataset:
    """X and Y in batches, three of them by default."""
    return tf.data.Dataset.from_tensor_slices((X, Y)).batch(batch_size)


def batches(*given: Any) -> Iterator[Any]:
    """A Python generator of these batches, (X, Y) twice by default. What is an exception is raised in its turn."""
    for batch in given or ((X, Y), (X, Y)):
        if isinstance(batch, BaseException):
            raise batch
        yield batch


def no_batches() -> Iterator[Any]:
    """A Python generator of nothing."""
    yield from ()


class Batches(keras.utils.PyDataset):
    """A PyDataset of these batches. What is an exception is raised in its turn."""

    def __init__(self, *given: Any, workers: int = 1) -> None:
        super().__init__(workers=workers)
        self.given = given

    def __len__(self) -> int:
        return len(self.given)

    def __getitem__(self, index: int) -> Any:
        if isinstance(self.given[index], BaseException):
            raise self.given[index]
        return self.given[index]


class Raises(keras.callbacks.Callback):
    """Raises this in the method of this name, the second time if it is one of a batch."""

    def __init__(self, method: str, error: BaseException) -> None:
        super().__init__()
        calls = iter([None, error] if "batch" in method else [error])

        def raises(*_: Any, **__: Any) -> None:
            found = next(calls)
            if found is not None:
                raise found

        setattr(self, method, raises)
