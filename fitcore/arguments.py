"""What fit's arguments must be, and what some of them mean together; all that can be known without looking at the data."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from fitcore.checkpoint import Checkpoint
from fitcore.errors import CallbackError, FrequencyError
from fitcore.hooks import BatchSizeSchedule, Hook, InLoop, name_of
from fitcore.optimizers.fused import NUMERICS
from fitcore.plans import PLANS
from fitcore.schedules.hyperparameters import BATCH_SIZE, Rows


def check_arguments(given: Mapping[str, Any]) -> None:
    """Everything about fit's arguments that can be known without looking at the data."""
    if not callable(given["batch_size"]):
        check_count("batch_size", given["batch_size"], optional=True)
    check_count("validation_batch_size", given["validation_batch_size"], optional=True)
    check_count("steps_per_epoch", given["steps_per_epoch"], optional=True)
    check_count("validation_steps", given["validation_steps"], optional=True)
    check_count("max_traces", given["max_traces"], optional=True)
    check_count("epochs", given["epochs"], least=0)
    check_count("initial_epoch", given["initial_epoch"], least=0)
    if given["numerics"] not in NUMERICS:
        raise ValueError(f'`numerics` must be "exact" or "fast". Received: numerics={given["numerics"]!r}')
    if given["plan"] not in PLANS:
        raise ValueError(f"`plan` must be one of {PLANS}. Received: plan={given['plan']!r}")
    if given["plan"] != "auto" and given["numerics"] != "fast":
        raise ValueError(f'`plan` is of numerics="fast". Received: plan={given["plan"]!r}, numerics={given["numerics"]!r}')
    split = given["validation_split"]
    if not isinstance(split, (int, float, np.number)):
        raise TypeError(
            f"`validation_split` must be a number. Received: validation_split={split!r} of type {type(split).__name__}"
        )
    if not 0 <= split < 1:
        raise ValueError(f"`validation_split` must be in [0, 1). Received: validation_split={split}")
    freq = given["validation_freq"]
    if not isinstance(freq, (int, list)) or (isinstance(freq, int) and freq < 1):
        raise FrequencyError(
            f"`validation_freq` must be an int of at least 1 or a list of epochs. Received: validation_freq={freq!r}"
        )
    if not isinstance(given["checkpoint"], (Checkpoint, type(None))):
        raise TypeError(f"`checkpoint` must be a fitcore.Checkpoint. Received: checkpoint={given['checkpoint']!r}")
    if not isinstance(given["hooks"], Sequence):
        raise TypeError(f"`hooks` must be a list of fitcore hooks. Received: hooks={given['hooks']!r}")
    for hook in given["hooks"]:
        if not isinstance(hook, Hook):
            wrong = "Keras callbacks go into `callbacks`. " if isinstance(hook, keras.callbacks.Callback) else ""
            raise TypeError(f"`hooks` must hold fitcore hooks. {wrong}Received: {hook!r} of type {type(hook).__name__}")
    check_callbacks(given["callbacks"])


def check_callbacks(callbacks: Any) -> None:
    """Refuse what can't be called back. As in Keras, any object that has the methods can.

    Raises:
      CallbackError: something else is among them.
    """
    for callback in keras.tree.flatten(callbacks or []):
        if isinstance(callback, type) or not hasattr(callback, "set_model"):
            wrong = "; give an instance of this class" if isinstance(callback, type) else ""
            wrong = "; hooks go into `hooks`" if isinstance(callback, Hook) else wrong
            raise CallbackError(f"`callbacks` must hold Keras callbacks{wrong}. Received: {callback!r}")


def with_brought(hooks: Iterable[Hook], callbacks: Iterable[Any]) -> list[Hook]:
    """The hooks, and those that callbacks bring along in a list `hooks`, for what Keras's methods don't tell them."""
    brought = [getattr(callback, "hooks", None) for callback in callbacks]
    return [*hooks, *(hook for each in brought if isinstance(each, list) for hook in each if isinstance(hook, Hook))]


def check_hooks(hooks: Sequence[Hook], schedules: Mapping[str, Any]) -> None:
    """Refuse hooks that would change what a schedule sets at each step."""
    for hook in hooks:
        both = sorted(set(schedules) & _changes(hook))
        if both:
            raise ValueError(f"`hooks` holds a {name_of(hook)}, which changes {both}; `schedule` sets that at each step.")


def check_count(name: str, value: Any, least: int = 1, optional: bool = False) -> None:
    """Refuse what isn't a whole number of at least `least`, or None where that is allowed.

    Raises:
      TypeError, ValueError: it isn't.
    """
    if value is None and optional:
        return
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"`{name}` must be an int. Received: {name}={value!r} of type {type(value).__name__}")
    if value < least:
        raise ValueError(f"`{name}` must be at least {least}. Received: {name}={value}")


def changes_batch_size(hooks: Iterable[Hook]) -> bool:
    """Whether one of the hooks may change the batch size."""
    return any("batch_size" in _changes(hook) for hook in hooks)


def _changes(hook: Hook) -> set[str]:
    """The settings that a hook or its rule says it changes."""
    return {*hook.changes, *(hook.in_loop.changes if hook.in_loop else ())}


def first_batch_size(
    batch_size: Any, schedules: Mapping[str, Any], hooks: Sequence[Hook], step: int
) -> tuple[Any, Sequence[Hook]]:
    """(batch size of the first step, the hooks and one more that follows the schedule of the batch size if there is one)."""
    if BATCH_SIZE in schedules:
        if callable(batch_size):
            raise ValueError("`batch_size` is a function already, and `schedule` has one too. Give one of them.")
        batch_size = Rows(schedules[BATCH_SIZE], batch_size or 32)
    if not callable(batch_size):
        return batch_size, hooks
    first = np.asarray(batch_size(tf.constant(step, tf.int64)))
    if first.shape != () or not first >= 1:
        raise ValueError(f"`batch_size(step)` must give a number of at least 1. Received: {first} for step {step}")
    return int(first), [*hooks, InLoop(BatchSizeSchedule(batch_size))]


def capped(steps: int | None) -> int | None:
    """`steps`, bounded by `keras.config.set_max_steps_per_epoch`."""
    most = keras.config.max_steps_per_epoch()
    if most and (not steps or most < steps):
        warnings.warn(f"Limiting steps_per_epoch to {most}", stacklevel=3)
        return int(most)
    return steps


def shows_bar(verbose: str | int) -> bool:
    """Whether fit's `verbose` shows a progress bar: "auto" does on a terminal."""
    return sys.stdout.isatty() if verbose == "auto" else verbose != 0
