"""What goes wrong under way."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from benchmarks.bad_calls.setup import (
    EMPTY,
    Bad,
    Batches,
    Picky,
    Raises,
    Unforeseen,
    X,
    Y,
    batches,
    dataset,
    linear,
)


def some() -> Exception:
    """An error of a user's own."""
    return Unforeseen(7, where="under way")


def picky() -> Exception:
    """One of a class that fitcore catches in places."""
    return Picky(7, where="under way")


def the_end() -> Exception:
    """What TensorFlow raises at the end of the data."""
    return tf.errors.OutOfRangeError(None, None, "the end")


def raising(method: str, error: BaseException) -> dict[str, Any]:
    """Arguments of a fit whose callback raises in this method."""
    return {"x": X, "y": Y, "batch_size": 4, "validation_data": (X, Y), "callbacks": [Raises(method, error)]}


THREE = [(X, Y)] * 3


def mapped(function: Any) -> tf.data.Dataset:
    """A dataset whose second batch is made by this Python function."""

    def second(i: tf.Tensor, batch: Any) -> Any:
        x, y = batch
        failing = lambda: tf.ensure_shape(tf.py_function(function, [x], tf.float32), x.shape)  # noqa: E731
        return tf.cond(tf.equal(i, 1), failing, lambda: x), y

    return dataset().enumerate().map(second)


def raises(error: Exception) -> Any:
    """A function of one argument that raises this."""

    def function(_: Any) -> Any:
        raise error

    return function


def in_callback(method: str) -> Bad:
    return Bad(f"a callback that raises in {method}", lambda by: by.fit(linear(), **raising(method, some())))


def in_generator(error: Callable[[], Exception]) -> Bad:
    name = type(error()).__name__
    return Bad(f"a generator that raises {name}", lambda by: by.fit(linear(), batches(*THREE, error())))


def in_py_dataset(error: Callable[[], Exception]) -> Bad:
    name = type(error()).__name__
    return Bad(f"a PyDataset that raises {name}", lambda by: by.fit(linear(), Batches(*THREE, error()), shuffle=False))


def in_dataset(error: Callable[[], Exception]) -> Bad:
    name = type(error()).__name__
    return Bad(f"a dataset whose py_function raises {name}", lambda by: by.fit(linear(), mapped(raises(error()))))


CALLS = [
    in_callback("set_model"),
    in_callback("on_train_begin"),
    in_callback("on_train_batch_end"),
    in_callback("on_test_batch_end"),
    in_callback("on_epoch_end"),
    Bad(
        "a callback that raises KeyboardInterrupt",
        lambda by: by.fit(linear(), **raising("on_train_batch_end", KeyboardInterrupt())),
    ),
    Bad("a callback that raises SystemExit", lambda by: by.fit(linear(), **raising("on_epoch_end", SystemExit(3)))),
    Bad(
        "a callback that raises StopIteration at a batch",
        lambda by: by.fit(linear(), **raising("on_train_batch_end", StopIteration())),
    ),
    Bad(
        "a callback that raises OutOfRangeError at a batch",
        lambda by: by.fit(linear(), **raising("on_train_batch_end", the_end())),
    ),
    Bad(
        "a callback whose method takes no logs",
        lambda by: by.fit(
            linear(), X, Y, callbacks=[type("Own", (keras.callbacks.Callback,), {"on_epoch_end": lambda self: None})()]
        ),
    ),
    Bad(
        "a LearningRateScheduler that returns nothing",
        lambda by: by.fit(linear(), X, Y, callbacks=[keras.callbacks.LearningRateScheduler(lambda epoch: None)]),
    ),
    Bad(
        "a LearningRateScheduler that raises",
        lambda by: by.fit(linear(), X, Y, callbacks=[keras.callbacks.LearningRateScheduler(lambda epoch: 1 / 0)]),
    ),
    Bad(
        "a LearningRateScheduler over a schedule",
        lambda by: by.fit(
            linear(optimizer=keras.optimizers.SGD(keras.optimizers.schedules.ExponentialDecay(0.1, 9, 0.9))),
            X,
            Y,
            callbacks=[keras.callbacks.LearningRateScheduler(lambda epoch: 0.1)],
        ),
    ),
    Bad(
        "EarlyStopping on a metric that isn't there",
        lambda by: by.fit(linear(), X, Y, callbacks=[keras.callbacks.EarlyStopping("val_mae")]),
    ),
    Bad(
        "ModelCheckpoint into a file in place of a folder",
        lambda by: by.fit(linear(), X, Y, callbacks=[keras.callbacks.ModelCheckpoint(f"{__file__}/a.keras")]),
    ),
    Bad(
        "CSVLogger into a file in place of a folder",
        lambda by: by.fit(linear(), X, Y, callbacks=[keras.callbacks.CSVLogger(f"{__file__}/a.csv")]),
    ),
    in_generator(ValueError),
    in_generator(KeyError),
    in_generator(MemoryError),
    in_generator(StopIteration),
    in_generator(some),
    Bad("a generator that raises at once", lambda by: by.fit(linear(), batches(some()))),
    in_py_dataset(ValueError),
    in_py_dataset(some),
    Bad("a PyDataset that raises at once", lambda by: by.fit(linear(), Batches(some()))),
    Bad("a PyDataset without length", lambda by: by.fit(linear(), keras.utils.PyDataset())),
    in_dataset(ValueError),
    in_dataset(StopIteration),
    in_dataset(some),
    Bad(
        "a dataset of a file that isn't there",
        lambda by: by.fit(linear(), tf.data.TextLineDataset("/nowhere").map(lambda line: (X, Y))),
    ),
    Bad(
        "a dataset that fails in its second batch",
        lambda by: by.fit(
            linear(),
            dataset()
            .enumerate()
            .map(lambda i, batch: (tf.debugging.check_numerics(batch[0] / tf.cast(1 - i, tf.float32), "no"), batch[1])),
        ),
    ),
    Bad("a dataset that repeats nothing", lambda by: by.fit(linear(), dataset().take(0).repeat(), steps_per_epoch=2), EMPTY),
    Bad(
        "a validation generator that raises",
        lambda by: by.fit(linear(), X, Y, validation_data=batches(*THREE, some())),
    ),
    Bad(
        "a validation PyDataset that raises a ValueError of its own at once",
        lambda by: by.fit(linear(), X, Y, validation_data=Batches(picky())),
    ),
    Bad(
        "a validation generator that raises a ValueError of its own at once",
        lambda by: by.fit(linear(), X, Y, validation_data=batches(picky())),
    ),
    Bad("a PyDataset that raises, two threads", lambda by: by.fit(linear(), Batches(*THREE, some(), workers=2))),
    Bad(
        "a PyDataset whose on_epoch_end raises",
        lambda by: by.fit(linear(), type("Own", (Batches,), {"on_epoch_end": lambda self: 1 / 0})((X, Y))),
    ),
    Bad(
        "a PyDataset whose on_epoch_begin raises",
        lambda by: by.fit(linear(), type("Own", (Batches,), {"on_epoch_begin": lambda self: 1 / 0})((X, Y))),
    ),
]
