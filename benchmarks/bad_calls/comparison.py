"""Makes a bad call by Keras and by fitcore, and judges what they raise."""

from __future__ import annotations

import functools
import inspect
import warnings
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import keras

import fitcore
from benchmarks.bad_calls.setup import Bad

SEED = 1234

# What fitcore's own errors may name.
NAMES = {*inspect.signature(fitcore.fit).parameters, *inspect.signature(fitcore.evaluate).parameters, "steps_per_execution"}


@dataclass(frozen=True)
class Outcome:
    """What a call came to.

    Attributes:
      error: what it raised, None if nothing.
      result: what it returned; of a History the values.
    """

    error: BaseException | None
    result: Any = None

    @property
    def raised(self) -> str | None:
        """The name of the error's class."""
        return None if self.error is None else type(self.error).__name__


@dataclass(frozen=True)
class Row:
    """A bad call's result.

    Attributes:
      call: its text.
      keras, fitcore: names of the classes raised, None for none.
      problem: what is wrong with fitcore's answer; empty if nothing is.
    """

    call: str
    keras: str | None
    fitcore: str | None
    problem: str


def compare(bad: Bad, by: Any = fitcore) -> Row:
    """Make a bad call by Keras and by `by` (its `fit`, `evaluate`, ...)."""
    expected, actual = outcome(bad, keras.Model), outcome(bad, by)
    return Row(bad.text, expected.raised, actual.raised, problem(bad, expected, actual))


def outcome(bad: Bad, by: Any) -> Outcome:
    """What a bad call comes to."""
    quiet = SimpleNamespace(
        fit=functools.partial(by.fit, verbose=0),
        evaluate=functools.partial(by.evaluate, verbose=0),
        train_on_batch=by.train_on_batch,
        test_on_batch=by.test_on_batch,
    )
    keras.utils.set_random_seed(SEED)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            result = bad.call(quiet)
        except BaseException as error:  # a callback may raise KeyboardInterrupt
            return Outcome(error)
    return Outcome(None, getattr(result, "history", result))


def problem(bad: Bad, expected: Outcome, actual: Outcome) -> str:
    """What is wrong with fitcore's answer to a bad call, given Keras's; empty if nothing is."""
    if expected.error is None and actual.error is None:
        same = repr(expected.result) == repr(actual.result)  # all digits, and NaN equals NaN
        return "" if same else f"another result: {actual.result!r} in place of {expected.result!r}"
    if actual.error is None:
        return "accepted"
    if expected.error is None and not bad.why:
        return f"refused without a reason: {actual.error}"
    if expected.error is not None and not isinstance(actual.error, type(expected.error)):
        return f"another class: {actual.error}"
    its_own = type(actual.error).__module__ == "fitcore.errors"
    if its_own and not any(f"`{name}`" in str(actual.error) for name in NAMES):
        return f"no argument is named: {actual.error}"
    return ""
