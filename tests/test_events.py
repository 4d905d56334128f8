"""Exact counts: every event of Keras callbacks and of hooks, in order, with all that it carries."""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import keras
import pytest
from models import data, dataset, linear, of_unknown_size

import fitcore
from fitcore import EPOCHS, EVERY_STEP, NEVER, RETURNS, Hook, Stop, View, every, loop


@pytest.fixture(autouse=True)
def no_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiled calls also end when some time has passed, which on a busy machine would add to the counts."""
    monkeypatch.setattr(loop, "SECONDS_PER_CALL", math.inf)


METHODS = [f"on_{mode}_{when}" for mode in ("train", "test") for when in ("begin", "end", "batch_begin", "batch_end")]
METHODS += ["on_epoch_begin", "on_epoch_end"]


def recording(methods: Sequence[str], stop_at: int | None = None, stop_evaluating_at: int | None = None) -> Any:
    """A callback whose class overrides just these methods. It notes each call: its arguments, the bits and types of the
    logs in their order, the optimizer's step count at that time, and what Keras told about the run's size.
    """

    def overriding(method: str) -> Callable[..., None]:
        def note(self: Any, *arguments: Any, **named: Any) -> None:
            *arguments, logs = (*arguments, *named.values())  # every method's last argument is `logs`
            shown = None if logs is None else [(name, type(value), value.hex()) for name, value in logs.items()]
            steps = int(self.model.optimizer.iterations)
            self.events.append((method, *arguments, shown, steps, dict(self.params)))
            if stop_at is not None and steps >= stop_at:
                self.model.stop_training = True
            if arguments == [stop_evaluating_at]:
                self.model.stop_evaluating = True

        return note

    callback = type("Recording", (keras.callbacks.Callback,), {method: overriding(method) for method in methods})()
    callback.events = []
    return callback


@dataclass(frozen=True)
class Case:
    """What to train, what the callback overrides, and how often some methods are called, as literal numbers."""

    fit: Callable[[], dict[str, Any]]
    counts: Mapping[str, int]
    compile: Mapping[str, Any] = field(default_factory=dict)
    methods: Sequence[str] = tuple(METHODS)
    stop_at: int | None = None


def arrays(rows: int = 20, **arguments: Any) -> Callable[[], dict[str, Any]]:
    x, y = data(rows)
    return lambda: {"x": x, "y": y, "batch_size": 4} | arguments


def validated(**arguments: Any) -> Callable[[], dict[str, Any]]:
    return arrays(validation_data=data(10, seed=1), validation_batch_size=4, **arguments)


def unknown(**arguments: Any) -> Callable[[], dict[str, Any]]:
    return lambda: {"x": of_unknown_size(dataset())} | arguments


def steps(begins: int, ends: int) -> dict[str, int]:
    return {"on_train_batch_begin": begins, "on_train_batch_end": ends}


CASES = {
    "whole batches": Case(arrays(epochs=2), steps(10, 10) | {"on_epoch_begin": 2, "on_epoch_end": 2, "on_train_end": 1}),
    "partial batch": Case(arrays(18, epochs=2), steps(10, 10)),
    "one batch": Case(arrays(3, epochs=3), steps(3, 3)),
    "no epochs": Case(arrays(epochs=0), steps(0, 0) | {"on_train_begin": 1, "on_epoch_begin": 0, "on_train_end": 1}),
    "initial_epoch": Case(arrays(epochs=4, initial_epoch=2), steps(10, 10) | {"on_epoch_begin": 2}),
    "initial_epoch past the end": Case(arrays(epochs=2, initial_epoch=5), steps(0, 0) | {"on_epoch_begin": 0}),
    "validation": Case(
        validated(epochs=2),
        steps(10, 10) | {"on_test_begin": 2, "on_test_batch_begin": 6, "on_test_batch_end": 6, "on_test_end": 2},
        compile={"metrics": ["mae"]},
    ),
    "validation_split": Case(arrays(validation_split=0.4), steps(3, 3) | {"on_test_batch_end": 2}),
    "validation_steps": Case(validated(validation_steps=2, epochs=2), {"on_test_batch_end": 4}),
    "validation_steps beyond the data": Case(validated(validation_steps=5, epochs=2), {"on_test_batch_end": 6}),
    "validation_freq": Case(validated(epochs=5, validation_freq=2), {"on_test_begin": 2, "on_epoch_end": 5}),
    "validation_freq list": Case(validated(epochs=4, validation_freq=[1, 4]), {"on_test_begin": 2, "on_epoch_end": 4}),
    "steps_per_execution": Case(
        validated(epochs=2), steps(4, 4) | {"on_test_batch_end": 2}, compile={"steps_per_execution": 3}
    ),
    "steps_per_execution beyond the epoch": Case(arrays(epochs=2), steps(2, 2), compile={"steps_per_execution": 8}),
    "steps_per_execution and steps_per_epoch": Case(
        arrays(40, epochs=2, steps_per_epoch=4), steps(4, 4), compile={"steps_per_execution": 3}
    ),
    "steps_per_epoch below a pass": Case(arrays(epochs=4, steps_per_epoch=3), {"on_epoch_end": 4}),
    "steps_per_epoch beyond the data": Case(arrays(epochs=2, steps_per_epoch=8), steps(10, 10)),
    "dataset": Case(lambda: {"x": dataset(), "epochs": 2}, steps(10, 10)),
    "dataset shorter than steps_per_epoch": Case(lambda: {"x": dataset(), "epochs": 2, "steps_per_epoch": 8}, steps(10, 10)),
    "endless dataset": Case(lambda: {"x": dataset().repeat(), "epochs": 3, "steps_per_epoch": 3}, steps(9, 9)),
    "dataset of unknown size": Case(unknown(epochs=3), steps(18, 15)),
    "dataset of unknown size, steps_per_execution": Case(unknown(epochs=2), {}, compile={"steps_per_execution": 3}),
    "dataset of unknown size, steps_per_epoch": Case(unknown(epochs=4, steps_per_epoch=3), {"on_epoch_end": 4}),
    "validation on a dataset of unknown size": Case(
        arrays(epochs=3, validation_data=of_unknown_size(dataset(8))),
        {"on_test_begin": 3, "on_test_batch_begin": 9, "on_test_batch_end": 6},
    ),
    "stopped in mid-epoch": Case(
        validated(epochs=3), steps(7, 7) | {"on_epoch_end": 2, "on_test_begin": 2, "on_train_end": 1}, stop_at=7
    ),
    "stopped in mid-epoch, dataset of unknown size": Case(unknown(epochs=3), {"on_epoch_end": 2}, stop_at=7),
    "stopped before the first step": Case(arrays(epochs=3), steps(1, 1) | {"on_epoch_end": 1}, stop_at=0),
    "stopped at an epoch's last step": Case(arrays(epochs=3), steps(5, 5) | {"on_epoch_end": 1}, stop_at=5),
    "only the aliases": Case(
        arrays(epochs=2), {"on_batch_begin": 10, "on_batch_end": 10}, methods=["on_batch_begin", "on_batch_end"]
    ),
    "only batch begin": Case(arrays(epochs=2), {"on_train_batch_begin": 10}, methods=["on_train_batch_begin"]),
    "only batch end": Case(arrays(18, epochs=2), {"on_train_batch_end": 10}, methods=["on_train_batch_end"]),
    "only test batches": Case(validated(epochs=2), {"on_test_batch_end": 6}, methods=["on_test_batch_end"]),
    "only epochs": Case(validated(epochs=2), {"on_epoch_end": 2}, methods=["on_epoch_begin", "on_epoch_end"]),
}


@pytest.mark.parametrize("name", CASES)
def test_callbacks_see_what_they_see_under_keras(name: str) -> None:
    case, events = CASES[name], {}
    for which, fit in {"keras": keras.Model.fit, "fitcore": fitcore.fit}.items():
        keras.utils.set_random_seed(1)
        callback = recording(case.methods, case.stop_at)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # data that run out: some cases are about just that
            fit(linear(**case.compile), verbose=0, callbacks=[callback], **case.fit())
        events[which] = callback.events
    assert events["fitcore"] == events["keras"]
    counts = Counter(method for method, *_ in events["fitcore"])
    assert {method: counts[method] for method in case.counts} == case.counts


def test_batch_numbers_of_steps_per_execution() -> None:
    """The end step isn't clamped: 5 batches by 3 end at 2 and at 5, after 3 and 5 steps."""
    callback = recording(["on_train_batch_begin", "on_train_batch_end"])
    fitcore.fit(linear(steps_per_execution=3), *data(20), batch_size=4, verbose=0, callbacks=[callback])
    seen = [(method.removeprefix("on_train_batch_"), batch, done) for method, batch, _, done, _ in callback.events]
    assert seen == [("begin", 0, 0), ("end", 2, 3), ("begin", 3, 3), ("end", 5, 5)]


@pytest.mark.parametrize("steps_per_execution", [1, 2])
@pytest.mark.parametrize("stop_at", [None, 1])
def test_evaluate(steps_per_execution: int, stop_at: int | None) -> None:
    """`evaluate` calls the same test methods; `stop_evaluating` is obeyed."""
    events, results = {}, {}
    for which, evaluate in {"keras": keras.Model.evaluate, "fitcore": fitcore.evaluate}.items():
        callback = recording(METHODS, stop_evaluating_at=stop_at)
        model = linear(metrics=["mae"], steps_per_execution=steps_per_execution)
        results[which] = evaluate(model, *data(18), batch_size=4, verbose=0, callbacks=[callback])
        events[which] = callback.events
    assert events["fitcore"] == events["keras"]
    assert results["fitcore"] == results["keras"]
    counts = Counter(method for method, *_ in events["fitcore"])
    batches = {(1, None): 5, (1, 1): 2, (2, None): 3, (2, 1): 1}[steps_per_execution, stop_at]
    assert counts["on_test_batch_end"] == batches
    assert counts["on_test_begin"] == counts["on_test_end"] == 1


# --- hooks ----------------------------------------------------------------------------------------------------------------


class Noting(Hook):
    """Notes which method was called when, in a list that several hooks may share."""

    def __init__(self, when: Any, events: list[Any], name: str = "") -> None:
        self.when, self.events, self.name = when, events, name

    def _note(self, method: str, view: View) -> None:
        assert view.first_step <= view.step
        self.events.append((self.name + method, view.step, view.epoch, view.epoch_step))

    def begin(self, view: View) -> None:
        self._note("begin", view)

    def after_steps(self, view: View) -> None:
        self._note("steps", view)

    def after_epoch(self, view: View) -> None:
        self._note("epoch", view)

    def end(self, view: View) -> None:
        self._note("end", view)


def run(*whens: Any, **arguments: Any) -> tuple[list[Any], dict[str, Any]]:
    """(events, account) of two epochs of five steps under hooks that need the host at these times."""
    events: list[Any] = []
    hooks = [Noting(when, events, "abc"[i] + " " if len(whens) > 1 else "") for i, when in enumerate(whens)]
    arguments = {"batch_size": 4, "epochs": 2, "verbose": 0} | arguments
    history = fitcore.fit(linear(), *data(20), hooks=hooks, **arguments)
    return events, history.account


EPOCH_EVENTS = [("begin", 0, 0, 0), ("epoch", 5, 0, 5), ("epoch", 10, 1, 5), ("end", 10, 1, 5)]


def test_hooks_that_need_no_step() -> None:
    """Nothing but the epochs' ends cuts the steps: one compiled call per epoch."""
    events, account = run(EPOCHS)
    assert events == EPOCH_EVENTS
    assert account["calls"] == 2
    assert account["steps"] == 10
    assert account["traces"] == 1
    events, account = run(NEVER)
    assert events == [("begin", 0, 0, 0), ("end", 10, 1, 5)]
    assert account["calls"] == 2
    events, account = run(RETURNS)
    calls = [("steps", 5, 0, 5), ("steps", 10, 1, 5)]
    assert events == [EPOCH_EVENTS[0], calls[0], EPOCH_EVENTS[1], calls[1], *EPOCH_EVENTS[2:]]
    assert account["calls"] == 2
    events, account = run()
    assert events == []
    assert account["calls"] == 2


def test_a_hook_at_every_step() -> None:
    events, account = run(EVERY_STEP)
    first, second = (
        [("steps", done, epoch, done - 5 * epoch) for done in range(5 * epoch + 1, 5 * epoch + 6)] for epoch in (0, 1)
    )
    assert events == [EPOCH_EVENTS[0], *first, EPOCH_EVENTS[1], *second, *EPOCH_EVENTS[2:]]
    assert account["calls"] == account["steps"] == 10


def test_a_hook_at_every_seventh_step() -> None:
    """It counts the run's steps, across epochs."""
    events, account = run(every(7), epochs=5)
    assert [event for event in events if event[0] == "steps"] == [("steps", 7, 1, 2), ("steps", 14, 2, 4), ("steps", 21, 4, 1)]
    assert account["calls"] == 5 + 3  # each epoch's end, and each seventh step: none of them coincide


def test_hooks_with_different_needs() -> None:
    """Each is called at its own steps alone, in the order given; the calls end where any of them needs the host."""
    events, account = run(every(2), every(3), RETURNS, epochs=1)
    assert [(name, done) for name, done, _, _ in events] == [
        *[("a begin", 0), ("b begin", 0), ("c begin", 0)],
        *[("a steps", 2), ("c steps", 2), ("b steps", 3), ("c steps", 3), ("a steps", 4), ("c steps", 4), ("c steps", 5)],
        *[("a epoch", 5), ("b epoch", 5), ("c epoch", 5)],
        *[("a end", 5), ("b end", 5), ("c end", 5)],
    ]
    assert account["calls"] == 4


def test_hooks_beside_steps_per_execution_and_callbacks() -> None:
    """A callback that watches batches sees every step and hooks still come at theirs; a callback at epochs cuts nothing."""
    events, account = run(every(3), callbacks=[recording(["on_train_batch_end"])])
    assert [event[1] for event in events if event[0] == "steps"] == [3, 6, 9]
    assert account["calls"] == 10
    events, account = run(EPOCHS, callbacks=[recording(["on_epoch_end"])])
    assert events == EPOCH_EVENTS
    assert account["calls"] == 2


def test_hooks_on_data_of_unknown_size() -> None:
    events: list[Any] = []
    with pytest.warns(UserWarning, match="ran out of data"):
        fitcore.fit(linear(), of_unknown_size(dataset()), epochs=2, verbose=0, hooks=[Noting(every(2), events)])
    steps_seen = [event for event in events if event[0] == "steps"]
    assert steps_seen == [("steps", 2, 0, 2), ("steps", 4, 0, 4), ("steps", 6, 1, 1), ("steps", 8, 1, 3), ("steps", 10, 1, 5)]
    assert [event for event in events if event[0] == "epoch"] == EPOCH_EVENTS[1:3]


def test_a_step_hook_under_callbacks_that_see_several_steps_at_once() -> None:
    """A hook at every step is shown every step, also where Keras's callbacks come by executions of three."""
    seen: list[Any] = []
    callback = recording(["on_train_batch_end"])
    fitcore.fit(
        linear(steps_per_execution=3),
        *data(20),
        batch_size=4,
        verbose=0,
        callbacks=[callback],
        hooks=[Noting(EVERY_STEP, seen)],
    )
    assert [event[1] for event in callback.events] == [2, 5]
    assert [event[1] for event in seen if event[0] == "steps"] == [1, 2, 3, 4, 5]


def test_a_hook_that_stops_inside_an_execution() -> None:
    """The stop is at its exact step; the callbacks are told of the execution's end all the same."""

    class StopAtFour(Hook):
        when = EVERY_STEP

        def after_steps(self, view: View) -> Any:
            return Stop("four") if view.step == 4 else None

    callback = recording(["on_train_batch_begin", "on_train_batch_end", "on_epoch_end"])
    model = linear(steps_per_execution=3)
    history = fitcore.fit(model, *data(20), batch_size=4, epochs=2, verbose=0, callbacks=[callback], hooks=[StopAtFour()])
    assert history.stop_reason.step == int(model.optimizer.iterations) == 4
    seen = [(method, argument, done) for method, argument, _, done, _ in callback.events]
    begin, end = "on_train_batch_begin", "on_train_batch_end"
    assert seen == [(begin, 0, 0), (end, 2, 3), (begin, 3, 3), (end, 3, 4), ("on_epoch_end", 0, 4)]
