"""Trains a case by Keras and by fitcore and compares what they leave behind, byte by byte."""

from __future__ import annotations

import dataclasses
import gc
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

import fitcore
from benchmarks.parity.setup import Case, Impossible
from fitcore import keras_private

SEED = 1234
NOT_DETERMINISTIC = "Keras not deterministic"


@dataclass(frozen=True)
class Outcome:
    """What a training leaves behind, by name.

    Attributes:
      weights: all of `model.variables`: weights, BatchNormalization's means, RNN states, the states of random generators.
      optimizer: the optimizer's variables, its step count and a loss scale included.
      history: an array per key of the History, of the type of its values, and what else the case reports.
    """

    weights: Mapping[str, np.ndarray]
    optimizer: Mapping[str, np.ndarray]
    history: Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Row:
    """A case's result: the largest absolute differences, and whether all bytes were equal.

    Attributes:
      case: the case's name.
      identical: every byte is equal, and Keras repeats itself.
      verdict: "yes", "NO", or why there is nothing to compare ("skipped: ..." if the installed Keras can't).
      weights, optimizer, history: largest absolute difference; infinite where shapes or names differ, None if unknown.
      seconds: how long the three trainings took.
      op_determinism: it was on, because Keras doesn't repeat itself without.
      claim: which of several claims doesn't hold, if the case makes several.
    """

    case: str
    identical: bool
    verdict: str
    weights: float | None
    optimizer: float | None
    history: float | None
    seconds: float
    op_determinism: bool = False
    claim: str = ""

    @property
    def skipped(self) -> bool:
        return self.verdict.startswith("skipped")


def compare(case: Case, by: Any = fitcore, repeat: bool = True) -> Row:
    """Train a case by Keras, twice, and by `by` (its `fit`, `evaluate`, ...), and compare what they leave behind.

    Without `repeat`, Keras trains a second time only where the bits differ, to tell why.
    """
    start = time.perf_counter()
    try:
        expected = repeated = train(case, keras.Model)
        actual = train(case, by)
        if repeat or not same_bytes(expected, actual):
            repeated = train(case, keras.Model)
    except Impossible as error:
        return Row(case.name, False, f"skipped: {error}", None, None, None, time.perf_counter() - start)
    except Exception as error:  # whatever goes wrong in one case, the others shall be seen
        message = str(error).strip().splitlines() or [""]
        return Row(case.name, False, f"{type(error).__name__}: {message[0]}", None, None, None, time.perf_counter() - start)
    return dataclasses.replace(judged(case.name, expected, repeated, actual), seconds=time.perf_counter() - start)


def judged(name: str, expected: Outcome, repeated: Outcome, actual: Outcome) -> Row:
    """The row of a case that Keras trained to `expected`, then to `repeated`, and fitcore to `actual`."""
    verdict = "yes" if same_bytes(expected, actual) else "NO"
    if not same_bytes(expected, repeated):
        verdict = NOT_DETERMINISTIC
    return Row(
        case=name,
        identical=verdict == "yes",
        verdict=verdict,
        weights=difference(expected.weights, actual.weights),
        optimizer=difference(expected.optimizer, actual.optimizer),
        history=difference(expected.history, actual.history),
        seconds=0.0,
        op_determinism=keras_private.op_determinism(),
    )


def train(case: Case, by: Any) -> Outcome:
    """Build a case from the seed and train it by `by.fit`, or by whatever the case calls."""
    with fresh_keras(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # data that run out, no trainable weights: some cases are about just that
        model, task = case.build()
        reported = task(by) if callable(task) else by.fit(model, verbose=0, **task).history
        return Outcome(
            weights={f"{i} {variable.path}": variable.numpy() for i, variable in enumerate(model.variables)},
            optimizer={f"{i} {variable.path}": variable.numpy() for i, variable in enumerate(model.optimizer.variables)},
            history={name: np.asarray(values) for name, values in reported.items()},
        )


@contextmanager
def fresh_keras() -> Iterator[None]:
    """Keras as in a new process, seeded: names count from zero; dtype settings made inside are undone."""
    floatx, policy = keras.config.floatx(), keras.config.dtype_policy()
    keras.utils.clear_session()  # collects garbage, and what is left stays: TensorFlow keeps some of every graph,
    gc.freeze()  # which, looked through in each collection, would soon take longer than the training
    keras.utils.set_random_seed(SEED)
    try:
        yield
    finally:
        keras.config.set_floatx(floatx)
        keras.config.set_dtype_policy(policy)


def same_bytes(a: Outcome, b: Outcome) -> bool:
    """Whether all arrays of two outcomes agree in name, order, type, shape and every byte (so NaN equals the same NaN)."""
    return _bytes(a) == _bytes(b)


def difference(a: Mapping[str, np.ndarray], b: Mapping[str, np.ndarray]) -> float:
    """The largest absolute difference between arrays of the same names; infinite where names, shapes or NaNs differ."""
    if a.keys() != b.keys() or any(a[name].shape != b[name].shape for name in a):
        return float("inf")
    return max((_array_difference(a[name], b[name]) for name in a), default=0.0)


def _bytes(outcome: Outcome) -> list[Any]:
    parts = (outcome.weights, outcome.optimizer, outcome.history)
    return [[(name, str(v.dtype), v.shape, v.tobytes()) for name, v in part.items()] for part in parts]


def _array_difference(a: np.ndarray, b: np.ndarray) -> float:
    if a.dtype.kind in "USO":  # text: calls, what was sent
        return 0.0 if np.array_equal(a, b) else float("inf")
    a, b = a.astype(np.float64), b.astype(np.float64)
    differs = ~((a == b) | (np.isnan(a) & np.isnan(b)))
    values = np.abs(a[differs] - b[differs])
    return float(np.where(np.isnan(values), np.inf, values).max(initial=0.0))
