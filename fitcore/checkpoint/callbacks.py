"""The state of Keras's callbacks. Keras itself forgets it: its callbacks start afresh with each fit.

A callback of one's own takes part by two methods, as fitcore's hooks do: `state()`, which gives plain values and arrays, and
`load_state(state)`. It is called after `on_train_begin`, and, where an epoch was under way, `on_epoch_begin`.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from fitcore import keras_private

_NOT_ITS_OWN = ("model", "_model", "params", "_params", "validation_data")  # what Keras gives to every callback


def state(callback: keras.callbacks.Callback) -> Any:
    """What must be saved for the callback to go on in another process."""
    if _takes_part(callback):
        return callback.state()
    if not _is_keras(callback):
        return None
    if isinstance(callback, keras.callbacks.TensorBoard):
        keras_private.flush_events(callback)
    held = {name: value for name, value in vars(callback).items() if name not in _NOT_ITS_OWN and _is_plain(value)}
    if isinstance(callback, keras.callbacks.CSVLogger):
        held["bytes"] = os.path.getsize(callback.filename) if os.path.exists(callback.filename) else 0
    return held


def load_state(callback: keras.callbacks.Callback, state: Any) -> None:
    """Take up what `state` gave."""
    if _takes_part(callback):
        callback.load_state(state)
    elif state is not None:
        held = dict(state)
        if isinstance(callback, keras.callbacks.CSVLogger):
            size = held.pop("bytes")
            _cut(callback.filename, size)
            held |= {"append": callback.append, "append_header": size == 0}
        vars(callback).update(held)


@contextlib.contextmanager
def appending(callbacks: Iterable[keras.callbacks.Callback]) -> Iterator[None]:
    """Within it these callbacks may begin a fit without overwriting what the process before this one wrote."""
    loggers = [(each, each.append) for each in callbacks if isinstance(each, keras.callbacks.CSVLogger)]
    for logger, _ in loggers:
        logger.append = True
    try:
        yield
    finally:
        for logger, append in loggers:
            logger.append = append


def forgotten(callbacks: Iterable[keras.callbacks.Callback]) -> list[str]:
    """Names of the callbacks' classes whose state can't be saved: not Keras's, holding something, without the two methods."""
    plain = set(vars(keras.callbacks.Callback()))
    return sorted(
        {
            type(callback).__name__
            for callback in callbacks
            if not _takes_part(callback) and not _is_keras(callback) and set(vars(callback)) - plain - {*_NOT_ITS_OWN}
        }
    )


def _takes_part(callback: Any) -> bool:
    return callable(getattr(callback, "state", None)) and callable(getattr(callback, "load_state", None))


def _is_keras(callback: Any) -> bool:
    return type(callback).__module__.split(".")[0] == "keras"


def _is_plain(value: Any) -> bool:
    if value is None or isinstance(value, (bool, int, float, str, np.ndarray, np.generic, tf.Tensor)):
        return True
    if isinstance(value, Mapping):
        return all(isinstance(key, str) and _is_plain(held) for key, held in value.items())
    return isinstance(value, (list, tuple)) and all(map(_is_plain, value))


def _cut(path: str, size: int) -> None:
    """Take away what was written behind the first `size` bytes, after the checkpoint."""
    if os.path.exists(path) and os.path.getsize(path) > size:
        os.truncate(path, size)
