"""The state of Keras's callbacks. Keras itself forgets it: its callbacks start afresh with each fit.

Plain values in a callback's attributes (numbers, text, arrays, lists and dicts of them) are saved as they are. A callback of
one's own that holds something else takes part by two methods, as fitcore's hooks do: `state()`, which gives plain values, and
`load_state(state)`. It is called after `on_train_begin`, and, where an epoch was under way, `on_epoch_begin`.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from fitcore import keras_private

_NOT_ITS_OWN = ("model", "_model", "params", "_params", "validation_data")  # what Keras gives to every callback

_OF_VARIABLES = (
    tf.Variable, keras.Variable, keras.layers.Layer, keras.optimizers.Optimizer, keras.metrics.Metric, tf.random.Generator,
)  # fmt: skip


def state(callback: keras.callbacks.Callback) -> Any:
    """What must be saved for the callback to go on in another process."""
    if _takes_part(callback):
        return callback.state()
    if isinstance(callback, keras.callbacks.TensorBoard):
        keras_private.flush_events(callback)  # what it holds back would not be written again
    held = {name: value for name, value in _held(callback).items() if _is_plain(value)}
    if isinstance(callback, keras.callbacks.CSVLogger):
        held["bytes"] = os.path.getsize(callback.filename) if os.path.exists(callback.filename) else 0
    return held


def load_state(callback: keras.callbacks.Callback, state: Any) -> None:
    """Take up what `state` gave."""
    if _takes_part(callback):
        callback.load_state(state)
    else:
        held = dict(state)
        if isinstance(callback, keras.callbacks.CSVLogger):
            size = held.pop("bytes")
            _cut(callback.filename, size)
            held |= {"append": callback.append, "append_header": size == 0}
        if "min_delta" in held and hasattr(callback, "monitor_op"):
            # Keras turns its sign when it first sets `monitor_op`, which is no plain value and so not saved.
            held["min_delta"] = math.copysign(held["min_delta"], callback.min_delta)
        for name, value in held.items():
            present = vars(callback).get(name)
            if isinstance(present, list) and isinstance(value, list):
                present[:] = value  # the same list: others may hold it too
            elif isinstance(present, dict) and isinstance(value, dict):
                present.clear()
                present.update(value)
            else:
                vars(callback)[name] = value


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
    """Classes of the callbacks whose state can't be saved: a user's, without the two methods, holding more than plain values
    and variables."""
    own = [each for each in of_users(callbacks) if not _takes_part(each)]
    return sorted({type(callback).__name__ for callback in own if not all(map(_is_saved, _held(callback).values()))})


def of_users(callbacks: Iterable[Any]) -> list[Any]:
    """Those callbacks and hooks whose classes are neither Keras's nor fitcore's."""
    return [each for each in callbacks if type(each).__module__.split(".")[0] not in ("keras", "fitcore")]


def _is_saved(value: Any) -> bool:
    """Whether all of it is: plain, or variables, which are found wherever they are held (see `fitcore/outside.py`)."""
    if isinstance(value, (list, tuple, set)) and not _is_plain(value):
        return all(isinstance(each, _OF_VARIABLES) for each in value)
    if isinstance(value, Mapping) and not _is_plain(value):
        return all(isinstance(each, _OF_VARIABLES) for each in value.values())
    return _is_plain(value) or isinstance(value, _OF_VARIABLES)


def _held(callback: keras.callbacks.Callback) -> dict[str, Any]:
    """Its attributes, but for what Keras gave it."""
    return {name: value for name, value in vars(callback).items() if name not in _NOT_ITS_OWN}


def _takes_part(callback: Any) -> bool:
    return callable(getattr(callback, "state", None)) and callable(getattr(callback, "load_state", None))


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
