"""Who needs the host, and so how many steps one compiled call may make."""

from __future__ import annotations

from collections.abc import Iterable

import keras
import tensorflow as tf

from fitcore import keras_private
from fitcore.hooks import Hook, name_of

SECONDS_PER_CALL = 0.25  # a compiled call returns about this often, so that progress and Ctrl-C stay alive

# Keras takes either for the end of the data, also where a batch method of a callback raises it.
END_OF_DATA = (StopIteration, tf.errors.OutOfRangeError)

_BATCH_METHODS = {
    "train": ("on_train_batch_begin", "on_train_batch_end", "on_batch_begin", "on_batch_end"),
    "test": ("on_test_batch_begin", "on_test_batch_end"),
}


def overriding(callbacks: Iterable[keras.callbacks.Callback], methods: Iterable[str]) -> list[keras.callbacks.Callback]:
    """The callbacks that override any of these methods of `keras.callbacks.Callback`."""

    def has_own(callback: keras.callbacks.Callback, method: str) -> bool:
        return getattr(getattr(callback, method), "__func__", None) is not getattr(keras.callbacks.Callback, method)

    return [callback for callback in callbacks if any(has_own(callback, method) for method in methods)]


def batch_callbacks(callbacks: Iterable[keras.callbacks.Callback], mode: str) -> list[keras.callbacks.Callback]:
    """The callbacks that override a batch method of `mode` ("train" or "test")."""
    return overriding(callbacks, _BATCH_METHODS[mode])


def call_limits(
    callbacks: Iterable[keras.callbacks.Callback], hooks: Iterable[Hook], steps_per_execution: int
) -> list[tuple[int, str]]:
    """What bounds the steps per compiled training call, besides the clock: (every so many steps, on whose account)."""
    watching = [callback for callback in batch_callbacks(callbacks, "train") if not keras_private.idle_between_epochs(callback)]
    limits = [(steps_per_execution, f"{type(callback).__name__} overrides a batch method") for callback in watching]
    return limits + [(hook.when.steps, f"hook {name_of(hook)}") for hook in hooks if hook.when.steps is not None]
