"""Rules that decide inside the compiled loop, and batch sizes that change from step to step."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from models import data, linear, state

import fitcore
from fitcore import Hook, NonFinite, Outcome, Patience, StepSeen, StopOn

ROWS = 50


def fit(model: Any, **arguments: Any) -> keras.callbacks.History:
    """Thirteen steps an epoch, unless told otherwise."""
    return fitcore.fit(model, *data(ROWS), **{"batch_size": 4, "shuffle": False, "verbose": 0} | arguments)


def bits(model: Any) -> list[bytes]:
    return list(state(model).values())


def rows(seen: fitcore.Observation) -> Any:
    return tf.shape(seen.x)[0]


def doubling(step: tf.Tensor) -> Any:
    return 2 ** (1 + step // 5)


@dataclass(frozen=True)
class Scripted:
    """Stops after some step; sets a setting from there on; keeps what it saw."""

    stop_at: int = 10**9
    settings: tuple[tuple[str, float], ...] = ()
    needs: tuple[str, ...] = ("step/loss",)

    @property
    def changes(self) -> tuple[str, ...]:
        return tuple(name for name, _ in self.settings)

    def start(self) -> dict[str, float]:
        return {"examples": 0.0, **dict.fromkeys(self.needs, 0.0)}

    def after_step(self, state: Mapping[str, Any], seen: StepSeen) -> Outcome:
        sums = {name: state[name] + seen.values[name] for name in self.needs}
        settings = dict(self.settings)
        return Outcome({"examples": state["examples"] + seen.examples, **sums}, seen.step >= self.stop_at, settings)

    def reason(self, state: Mapping[str, float]) -> str:
        return f"after {state['examples']:.0f} examples"


class Scripts(Hook):
    when = fitcore.NEVER

    def __init__(self, *rule: Any, **arguments: Any) -> None:
        self.in_loop = Scripted(*rule, **arguments)


def replayed(patience: int, values: Any) -> int | None:
    """Keras's EarlyStopping on a value per step, in plain Python: after how many values it stops."""
    best, wait = math.inf, 0
    for i, value in enumerate(values):
        best, wait = (value, 0) if value < best else (best, wait + 1)
        if wait >= patience:
            return i + 1
    return None


def test_a_stop_rule_ends_the_call_at_its_step() -> None:
    """The step is the one that a replay over the whole curve gives; the weights are those of that many steps; no more calls."""
    model = linear()
    whole = fit(model, epochs=3)
    found = {patience: replayed(patience, whole.steps["step/loss"]) for patience in range(2, 30)}
    patience, stops = next((patience, n) for patience, n in found.items() if n is not None and n > 13 and n % 13)

    model = linear()
    hook = StopOn(Patience(patience), "step/loss")
    history = fit(model, epochs=3, hooks=[hook])
    assert (history.stop_reason.step, history.stop_reason.epoch, history.stop_reason.by) == (stops, (stops - 1) // 13, "StopOn")
    assert history.stop_reason.reason.startswith("step/loss: no improvement")
    assert history.steps["step/loss"].tolist() == whole.steps["step/loss"][:stops].tolist()
    assert history.account["calls"] == 1 + (stops - 1) // 13  # one an epoch, the last one cut short
    assert hook.state()["loop"]["wait"] == patience

    short = linear()
    fit(short, epochs=stops // 13)
    fit(short, epochs=1, steps_per_epoch=stops % 13)
    assert bits(model) == bits(short)


def test_its_state_goes_on_over_repeated_fits_and_one_program_serves_equal_rules() -> None:
    model, hook = linear(), StopOn(Patience(20, min_delta=1e9), "step/loss")
    histories = [fit(model, hooks=[hook]) for _ in range(2)]
    assert [history.stop_reason is not None for history in histories] == [False, True]
    assert histories[1].stop_reason.step == 21
    other = fit(model, hooks=[StopOn(Patience(20, min_delta=1e9), "step/loss")])
    assert other.account["traces"] == 0
    assert other.stop_reason is None

    restored = StopOn(Patience(20, min_delta=1e9), "step/loss")
    restored.load_state(hook.state())
    assert fit(model, hooks=[restored]).stop_reason.step == 13 + 8 + 13 + 1


def test_rules_see_examples_and_noise_and_change_nothing_they_watch() -> None:
    plain = linear()
    fit(plain, epochs=2, noise=True)
    model, hook = linear(), Scripts(25, needs=("step/loss", "noise/trace", "noise/grad_norm_sq", "noise/batch_size"))
    history = fit(model, epochs=2, hooks=[hook])
    assert bits(model) == bits(plain)
    assert hook.loop_state is not None
    assert hook.loop_state["examples"] == hook.loop_state["noise/batch_size"] == 2 * ROWS
    assert history.stop_reason.reason == f"after {2 * ROWS} examples"
    for name in ("trace", "grad_norm_sq"):
        np.testing.assert_allclose(hook.loop_state[f"noise/{name}"], getattr(history.noise, name).sum(), rtol=1e-12)
    np.testing.assert_allclose(hook.loop_state["step/loss"], history.steps["step/loss"].sum(), rtol=1e-12)


def test_a_rule_sets_the_learning_rate_from_the_next_step_on() -> None:
    model = linear()
    history = fit(model, hooks=[Scripts(settings=(("learning_rate", 0.5),))], record=["step/learning_rate"])
    first, *others = history.steps["step/learning_rate"]
    assert first == pytest.approx(0.01)
    assert set(others) == {0.5}


def test_two_rules_the_first_one_to_stop_counts() -> None:
    history = fit(linear(), hooks=[Scripts(7), StopOn(NonFinite(), "step/loss"), Scripts(4)])
    assert (history.stop_reason.by, history.stop_reason.step) == ("Scripts", 5)


def test_eagerly_too() -> None:
    model = linear()
    model.run_eagerly = True
    history = fit(model, batch_size=lambda step: 4 + step, hooks=[Scripts(3)], record={"step/rows": rows})
    assert history.steps["step/rows"].tolist() == [4, 5, 6, 7]
    assert history.stop_reason.step == 4


def test_a_batch_size_schedule_traces_once_and_each_epoch_sees_all_rows() -> None:
    model = linear()
    history = fit(model, batch_size=doubling, epochs=3, record={"step/rows": rows})
    sizes = history.steps["step/rows"]
    assert history.account["traces"] == 1
    expected, step = [], 0
    for _ in range(3):
        left = ROWS
        while left:
            expected.append(min(2 ** (1 + step // 5), left))
            left -= expected[-1]
            step += 1
    assert sizes.tolist() == expected


def test_from_32_to_512_in_one_run_traces_once() -> None:
    history = fitcore.fit(
        linear(), *data(6000), batch_size=lambda step: 32 * 2 ** (step // 10), epochs=3, verbose=0, record={"step/rows": rows}
    )
    assert sorted(set(history.steps["step/rows"]) & {32, 64, 128, 256, 512}) == [32, 64, 128, 256, 512]
    assert history.account["traces"] == 1


def test_a_constant_schedule_is_the_fixed_size() -> None:
    """Bit for bit, where the graph knows of neither size: 3 doesn't divide the rows."""
    fixed, scheduled = linear(), linear()
    ours = fit(scheduled, batch_size=lambda step: 3, epochs=2, validation_split=0.2)
    theirs = fit(fixed, batch_size=3, epochs=2, validation_split=0.2)
    assert bits(scheduled) == bits(fixed)
    assert ours.history == theirs.history


def test_a_rule_and_a_hook_set_the_batch_size() -> None:
    history = fit(linear(), hooks=[Scripts(settings=(("batch_size", 16.0),))], record={"step/rows": rows})
    assert history.steps["step/rows"].tolist() == [4, 16, 16, 14]

    class Grow(Hook):
        when = fitcore.every(2)
        changes = ("batch_size",)

        def after_steps(self, view: fitcore.View) -> Any:
            return fitcore.Set("batch_size", 10 * view.step)

    history = fit(linear(), hooks=[Grow()], record={"step/rows": rows}, epochs=2)
    assert history.steps["step/rows"].tolist() == [4, 4, 20, 20, 2, 40, 10]


class FixedSize(Hook):
    when = fitcore.EVERY_STEP

    def after_steps(self, view: fitcore.View) -> Any:
        return fitcore.Set("batch_size", 8)


@dataclass(frozen=True)
class Reasonless:
    """May stop, and couldn't say why."""

    needs = changes = ()

    def start(self) -> dict[str, float]:
        return {}

    def after_step(self, state: Any, seen: StepSeen) -> Outcome:
        return Outcome({}, stop=seen.step > 2)


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"hooks": [fitcore.InLoop(Reasonless())]}, TypeError, r"Reasonless\(\) may stop .* needs a `reason\(state\)`"),
        ({"batch_size": lambda step: 0}, ValueError, "`batch_size.step.` must give.*at least 1.*0 for step 0"),
        ({"batch_size": lambda step: 4 - step}, tf.errors.InvalidArgumentError, "`batch_size` was set to less than 1"),
        ({"batch_size": doubling, "shuffle": "batch"}, ValueError, "changing batch size needs dense arrays.*inside batches"),
        ({"hooks": [FixedSize()]}, ValueError, "FixedSize sets the batch size.*`changes`"),
        ({"hooks": [Scripts(needs=("step/lost",))]}, ValueError, "step/lost"),
        ({"hooks": [Scripts(settings=(("momentum", 0.5),))]}, ValueError, r"changes \('momentum',\)"),
        ({"hooks": [Scripts(settings=[["learning_rate", 0.5]])]}, TypeError, "must be hashable"),
    ],
)
def test_bad_input(arguments: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        fit(linear(), **arguments)


def test_datasets_keep_their_batches() -> None:
    with pytest.raises(ValueError, match="made of batches already"):
        fitcore.fit(linear(), tf.data.Dataset.from_tensor_slices(data(8)).batch(4), batch_size=doubling, verbose=0)
