"""When a fit saves itself, what is there then, what must be alike to go on from it; and that the tests of it can fail."""

from __future__ import annotations

import itertools
import random
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from cut_fits import EPOCH, ROWS, arrays, compiled, shared, shuffled
from cuts import Case, Cut, Where, assert_survives, differing
from keras import layers
from models import data

import fitcore


class Drawing(keras.callbacks.Callback):
    """Draws from every global generator, and lets the learning rate follow."""

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        drawn = [random.random(), np.random.random(), float(tf.random.uniform([])), float(keras.random.uniform([]))]
        self.model.optimizer.learning_rate = 0.01 * sum(drawn)


# --- when, and what is there ----------------------------------------------------------------------------------------------


def folders(case_folder: Path) -> list[str]:
    return sorted(path.name.partition("-")[2] for path in (case_folder / "checkpoints").iterdir() if path.is_dir())


def test_how_many_are_kept_and_what_stays_when_one_fit_is_done(tmp_path: Path) -> None:
    case = Case(lambda folder: arrays(), tmp_path)
    case.fit("three", None, {"every": "5 steps", "keep": 3})
    assert folders(tmp_path / "three") == ["step-10", "step-15", "step-18"]
    case.fit("one", None, {"every": "1 epoch", "keep": 1})
    assert folders(tmp_path / "one") == ["step-18"]


def test_seconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that goes a second further each time it is looked at."""
    from fitcore.checkpoint import saver

    clock = itertools.count()
    monkeypatch.setattr(saver.time, "monotonic", lambda: float(next(clock)))
    assert_survives(Case(lambda folder: arrays(), tmp_path), [EPOCH + 1], every="1 second")
    assert len(folders(tmp_path / "cut0")) == 2


def test_the_weights_are_there_for_tensorflow_alone(tmp_path: Path) -> None:
    case = Case(lambda folder: arrays(), tmp_path)
    case.fit("whole", None, {"every": "1 epoch"})
    newest = max(path for path in (tmp_path / "whole" / "checkpoints").iterdir() if path.is_dir())
    reader = tf.train.load_checkpoint(str(newest / "state"))
    names = [name for name in reader.get_variable_to_shape_map() if name.startswith("model/")]
    found = [reader.get_tensor(name) for name in sorted(names, key=lambda name: int(name.split("/")[1]))]
    assert [value.tobytes() for value in found] == [variable.numpy().tobytes() for variable in shared().variables]


def test_two_fits_one_after_the_other(tmp_path: Path) -> None:
    """The first is answered, and the second goes on where it was cut."""
    model = compiled()
    start = [variable.numpy() for variable in model.variables]

    def both(name: str, cut: Where, checkpoint: dict[str, Any] | None) -> dict[str, Any]:
        keras.utils.set_random_seed(1)
        for variable, value in zip(model.variables, start):
            variable.assign(value)
        model.compile(keras.optimizers.Adam(0.01), "mse", metrics=["mae"])
        Case(lambda folder: arrays(model=model, epochs=1), tmp_path, seeded=False).fit(f"{name}-first", None, checkpoint)
        return Case(lambda folder: arrays(model=model, epochs=2), tmp_path, seeded=False).fit(f"{name}-second", cut, checkpoint)

    want = both("undisturbed", None, None)
    with pytest.raises(Cut):
        both("cut", 3, {"every": "2 steps"})
    assert differing(want, both("cut", None, {"every": "2 steps"})) == []


# --- what must be alike -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"epochs": 5}, "`epochs` was 3, is 5"),
        ({"x": data(ROWS, seed=1)[0]}, "`data` was"),
        ({"batch_size": 3}, "`batch_size` was 4, is 3"),
        ({"shuffle": False}, "`shuffle` was True, is False"),
        ({"hooks": [fitcore.StopAfter(steps=99)]}, "`hooks` was"),
        ({"callbacks": [keras.callbacks.TerminateOnNaN()]}, "`callbacks` was"),
        ({"schedule": lambda step: 0.1}, "`schedule` was None"),
    ],
    ids=["epochs", "data", "batch_size", "shuffle", "hooks", "callbacks", "schedule"],
)
def test_another_fit_is_refused(changes: dict[str, Any], named: str, tmp_path: Path) -> None:
    case = Case(lambda folder: arrays(), tmp_path)
    with pytest.raises(Cut):
        case.fit("cut", 5, {"every": "2 steps"})
    with pytest.raises(fitcore.checkpoint.CheckpointError, match=named):
        case.fit("cut", None, {"every": "2 steps"}, **changes)


def test_another_seed_or_optimizer_is_refused_and_can_be_forced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case(lambda folder: arrays(), tmp_path)
    with pytest.raises(Cut):
        case.fit("cut", 5, {"every": "2 steps"})
    monkeypatch.setattr("cuts.SEED", 4321)
    with pytest.raises(fitcore.checkpoint.CheckpointError, match="`global seed` was 1234, is 4321"):
        case.fit("cut", None, {"every": "2 steps"})
    monkeypatch.undo()
    monkeypatch.setattr(shared().optimizer, "beta_1", 0.5)
    with pytest.raises(fitcore.checkpoint.CheckpointError, match=r"`optimizer.beta_1` was 0.9, is 0.5"):
        case.fit("cut", None, {"every": "2 steps"})
    with pytest.warns(UserWarning, match="`optimizer.beta_1` was 0.9, is 0.5"):
        assert case.fit("cut", None, {"every": "2 steps", "resume": "force"})["steps"] == 3 * EPOCH


def test_other_versions_are_refused_and_can_be_forced(tmp_path: Path) -> None:
    import json

    from fitcore.checkpoint import store

    case = Case(lambda folder: arrays(), tmp_path)
    want = case.fit("undisturbed")
    with pytest.raises(Cut):
        case.fit("cut", 5, {"every": "2 steps"})
    for path in (tmp_path / "cut" / "checkpoints").glob("*/manifest.json"):
        facts = json.loads(path.read_text())["manifest"]
        facts["versions"]["keras"] = "3.0.0"
        path.write_text(store.sealed(facts))
    with pytest.raises(fitcore.checkpoint.CheckpointError, match=f"`keras` was '3.0.0', is '{keras.__version__}'"):
        case.fit("cut", None, {"every": "2 steps"})
    with pytest.warns(UserWarning, match="`keras` was '3.0.0'"):
        assert differing(want, case.fit("cut", None, {"every": "2 steps", "resume": "force"})) == []


def test_never_and_must(tmp_path: Path) -> None:
    case = Case(lambda folder: arrays(), tmp_path)
    with pytest.raises(fitcore.checkpoint.CheckpointError, match="holds none"):
        case.fit("a", None, {"resume": "must"})
    case.fit("a", None, {"resume": "never"})
    with pytest.raises(fitcore.checkpoint.CheckpointError, match="never"):
        case.fit("a", None, {"resume": "never"})


# --- the tests can fail -----------------------------------------------------------------------------------------------------


def kept_out(kind: str) -> Callable[[Any], Any]:
    """A `state.put_back` that leaves some of the run's variables as they were."""
    from fitcore.checkpoint import state

    put_back = state.put_back

    def but(run: Any, saved: Any) -> None:
        metrics = {id(variable) for metric in run.engine.parts.metrics() for variable in metric.variables}
        kinds = {
            "seed generators": lambda name, variable: "seed_generator" in name,
            "optimizer slots": lambda name, variable: name.startswith("optimizer/") and "momentum" in name,
            "metrics": lambda name, variable: id(variable) in metrics,
            "moving statistics": lambda name, variable: "moving_" in name,
        }
        left = [(variable, variable.numpy()) for name, variable in run.variables() if kinds[kind](name, variable)]
        assert left
        put_back(run, saved)
        for variable, value in left:
            variable.assign(value)

    return but


def nothing(*arguments: Any, **more: Any) -> None:
    pass


@pytest.mark.parametrize(
    ("what", "target", "arguments"),
    [
        *(
            (kind, "fitcore.checkpoint.state.put_back", {})
            for kind in ("seed generators", "optimizer slots", "metrics", "moving statistics")
        ),
        (
            "order of rows",
            "fitcore.data.sources.ArraySource.open_again",
            {"shuffle": fitcore.Reshuffle(1), "steps_per_epoch": 9},
        ),
        ("hooks", "fitcore.hooks.protocol.Hook.load_state", {"hooks": lambda: [fitcore.StopAfter(steps=9)]}),
        (
            "callbacks",
            "fitcore.checkpoint.callbacks.load_state",
            {"callbacks": lambda: [keras.callbacks.ReduceLROnPlateau("loss", patience=1, min_delta=9.0)]},
        ),
        ("random state", "fitcore.checkpoint.randomness.load_state", {"callbacks": lambda: [Drawing()]}),
        ("validation", "fitcore.validation.Validation.load_state", {"validation_data": shuffled}),
        ("curves", "fitcore.run.Curve.load", {}),
    ],
    ids=lambda value: value if isinstance(value, str) and "." not in value else "",
)
def test_what_is_not_put_back_is_noticed(
    what: str, target: str, arguments: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def make(folder: Path) -> dict[str, Any]:
        return arrays() | {name: value() if callable(value) else value for name, value in arguments.items()}

    case = Case(make, tmp_path)
    want = case.fit("undisturbed")
    with pytest.raises(Cut):
        case.fit("cut", EPOCH + 2, {"every": "1 step"})
    broken: Callable[..., Any] = nothing
    if target.endswith("put_back"):
        broken = kept_out(what)
    elif what == "order of rows":
        broken = lambda source, *rest: source.open_pass(7)  # noqa: E731
    monkeypatch.setattr(target, broken)
    try:
        found = differing(want, case.fit("cut", None, {"every": "1 step"}))
    except Exception as error:
        found = [repr(error)]
    assert found


def test_where_a_schedule_begins_is_put_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Although the rate that the optimizer has when the fit is started again is another one."""
    model, rates = compiled(keras.optimizers.SGD(0.1)), iter((0.1, 0.1, 0.2, 0.1, 0.2))

    def make(folder: Path) -> dict[str, Any]:
        return arrays(model=model, schedule=falling)

    case = Case(make, tmp_path)
    put_back = case._put_back

    def at_another_rate(folder: Path) -> None:
        put_back(folder)
        model.optimizer.learning_rate = next(rates)

    monkeypatch.setattr(case, "_put_back", at_another_rate)
    want = case.fit("undisturbed")
    for load, equal in ((fitcore.Engine.load_bases, True), (nothing, False)):
        with pytest.raises(Cut):
            case.fit(f"cut{equal}", 4, {"every": "2 steps"})
        monkeypatch.setattr(fitcore.Engine, "load_bases", load)
        got = case.fit(f"cut{equal}", None, {"every": "2 steps", "resume": "force"})
        assert (got["curves"] == want["curves"]) == equal


def falling(step: tf.Tensor, base: tf.Tensor) -> tf.Tensor:
    return base / (1 + tf.cast(step, tf.float32))


class Random(layers.Layer):
    """Draws by an op whose state is TensorFlow's own."""

    def __init__(self, draw: Callable[[Any], Any]) -> None:
        super().__init__()
        self.draw = draw

    def call(self, inputs: Any) -> Any:
        return inputs + self.draw(tf.shape(inputs))


@pytest.mark.parametrize(
    ("draw", "kind"),
    [
        (tf.random.uniform, "RandomUniform"),
        (lambda shape: tf.random.shuffle(tf.range(3.0)), "RandomShuffle"),
    ],
    ids=["uniform", "shuffle"],
)
def test_random_ops_that_no_variable_holds_are_named(draw: Callable[[Any], Any], kind: str, tmp_path: Path) -> None:
    model = compiled(body=[Random(draw), layers.Dense(1)])
    case = Case(lambda folder: arrays(model=model, epochs=1), tmp_path)
    with pytest.warns(UserWarning, match=f"`model`: the state of .*{kind}.* in its step"), pytest.raises(Cut):
        case.fit("cut", 5, {"every": "2 steps"})
    with pytest.raises(fitcore.checkpoint.CheckpointError, match=f"must.*{kind}"):
        case.fit("cut", None, {"every": "2 steps", "resume": "must"})


def test_what_keeps_its_state_is_not_named(tmp_path: Path) -> None:
    case = Case(lambda folder: arrays(validation_split=0.1), tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(Cut):
            case.fit("cut", 5, {"every": "2 steps"})
        case.fit("cut", None, {"every": "2 steps", "resume": "must"})
