"""The trainings that a check compares: Keras's own fit and fitcore's, each from the same state, and what each leaves."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from fitcore import keras_private
from fitcore.checking.rollback import reached
from fitcore.fitting import fit
from fitcore.hooks import EVERY_STEP, Hook, LoopRule, Outcome, StepSeen, Stop
from fitcore.noise import GradientNoise

State = dict[str, np.ndarray]  # each variable's value by its name
Seen = Callable[[int, State], bool]  # (index of the step just made, state) -> whether that is enough

_METHODS = (
    "on_train_batch_begin", "on_train_batch_end", "on_batch_begin", "on_batch_end",
)  # fmt: skip


def variables(model: Any) -> Iterator[tuple[str, Any]]:
    """(name, variable) of all that the model leads to, each once: weights first, then the optimizer's, metrics', and others."""
    listed = [*model.variables, *getattr(model.optimizer, "variables", ())]
    others = [each for each in reached([model]) if isinstance(each, (tf.Variable, keras.Variable))]
    known: set[int] = set()
    for each in [*listed, *others]:
        inner = each.value if isinstance(each, keras.Variable) else each
        if id(inner) not in known:
            known.add(id(inner))
            yield f"{len(known)} {getattr(each, 'path', each.name)}", each


def state_of(model: Any) -> State:
    """The values of all these variables, copied."""
    return _values(variables(model))


def _values(named: Iterable[tuple[str, Any]]) -> State:
    return {name: np.array(variable) for name, variable in named}


def digest(state: State) -> dict[str, bytes]:
    """The same, small enough to be kept for each step."""
    return {name: hashlib.blake2b(value.tobytes(), digest_size=16).digest() for name, value in state.items()}


def different(state: State, other: State) -> list[str]:
    """Names of the variables whose bits differ, or that only one of the two has."""
    mine, others = digest(state), digest(other)
    return [name for name in {**mine, **others} if mine.get(name) != others.get(name)]


@dataclass(frozen=True)
class Left:
    """What a training left: the variables, and Keras's History."""

    state: State
    history: dict[str, bytes]

    def differences(self, other: Left) -> list[str]:
        """What differs, in words: variables first."""
        logs = [f"History's {name}" for name in self.history if self.history[name] != other.history.get(name)]
        return different(self.state, other.state) + logs


def _left(model: Any, history: Any) -> Left:
    logs = {name: np.asarray(values, np.float64).tobytes() for name, values in history.history.items()}
    return Left(state_of(model), logs)


# --- Keras's ------------------------------------------------------------------------------------------------------------


def by_keras(model: Any, data: Mapping[str, Any], callbacks: Sequence[Any], seen: Seen | None = None) -> Left:
    """Train by Keras's own fit."""
    watching = [] if seen is None else [_Watcher(seen)]
    history = keras_private.fit(model, **data, verbose=0, callbacks=[*_silent_callbacks(callbacks), *watching])
    return _left(model, history)


class _Watcher(keras.callbacks.Callback):
    def __init__(self, seen: Seen) -> None:
        super().__init__()
        self._seen, self._step = seen, -1
        self._variables: list[tuple[str, Any]] = []  # looked for once: that takes longer than a small model's step

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self._step += 1
        self._variables = self._variables or list(variables(self.model))
        if self._seen(self._step, _values(self._variables)):
            self.model.stop_training = True


def _silent_callbacks(callbacks: Sequence[Any]) -> list[keras.callbacks.Callback]:
    """For each callback one that has its batch methods, and so asks for as many returns to the host, and does nothing.

    A user's callback may write files, print or send; Keras's own too.
    """
    found = []
    for callback in callbacks:
        methods = [
            name
            for name in _METHODS
            if hasattr(callback, name)
            and getattr(getattr(callback, name), "__func__", None) is not getattr(keras.callbacks.Callback, name)
        ]
        if methods and not keras_private.idle_between_epochs(callback):
            kind = type(type(callback).__name__, (keras.callbacks.Callback,), dict.fromkeys(methods, _nothing))
            found.append(kind())
    return found


def _nothing(self: Any, *args: Any, **kwargs: Any) -> None:
    """In place of a callback's method."""


# --- fitcore's ----------------------------------------------------------------------------------------------------------


def by_fitcore(
    model: Any, data: Mapping[str, Any], callbacks: Sequence[Any], asked: Mapping[str, Any], seen: Seen | None = None
) -> Left:
    """Train by fitcore, with what was asked for; with `seen`, a step per compiled call, else as many as it makes."""
    hooks = [] if seen is None else [_Looker(model, seen)]
    given = {**asked, "hooks": [*asked.get("hooks", ()), *hooks]}
    history = fit(model, **data, verbose=0, callbacks=_silent_callbacks(callbacks), **given)
    return _left(model, history)


class _Looker(Hook):
    when = EVERY_STEP

    def __init__(self, model: Any, seen: Seen) -> None:
        self._model, self._seen, self._step = model, seen, -1
        self._variables: list[tuple[str, Any]] = []

    def after_steps(self, view: Any) -> Stop | None:
        self._step += 1
        self._variables = self._variables or list(variables(self._model))
        return Stop("enough was seen") if self._seen(self._step, _values(self._variables)) else None


def asked_beside(given: Mapping[str, Any]) -> dict[str, Any]:
    """What fit was asked for that must not change the training: noise, records, hooks. Empty if that is nothing.

    Hooks need the host as often as they do and record what they do, and their rules are in the loop; they are told nothing and
    change nothing, and the noise is written nowhere.
    """
    asked: dict[str, Any] = {}
    noise = given["noise"]
    if noise:
        asked["noise"] = dataclasses.replace(noise, directory=None) if isinstance(noise, GradientNoise) else noise
    if given["record"] is not None:
        asked["record"] = given["record"]
    if given["hooks"]:
        asked["hooks"] = [_Silent(hook) for hook in given["hooks"]]
    return asked


class _Silent(Hook):
    """Asks for the same as a hook, and does nothing."""

    def __init__(self, hook: Hook) -> None:
        self.when, self.record = hook.when, hook.record
        self.in_loop = None if hook.in_loop is None else _Watched(hook.in_loop)


@dataclass(frozen=True)
class _Watched:
    """A rule that is asked after each step, and not followed."""

    rule: LoopRule

    @property
    def needs(self) -> tuple[str, ...]:
        return self.rule.needs

    @property
    def changes(self) -> tuple[str, ...]:
        return ()

    def start(self) -> Any:
        return self.rule.start()

    def after_step(self, state: Any, seen: StepSeen) -> Outcome:
        return Outcome(self.rule.after_step(state, seen).state)
