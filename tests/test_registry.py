"""Names and specs, and the flags of launch that take them."""

from __future__ import annotations

import dataclasses
import math
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import pytest
import tensorflow as tf
from absl import app
from absl.testing import flagsaver
from models import data, linear

import fitcore
from fitcore import __main__, make
from fitcore.command_line import launch, registry
from fitcore.noise import GradientNoise
from fitcore.schedules import Chain, Cosine, CosineRestarts, Exponential, Piecewise, Polynomial, Warmup

app.define_help_flags()  # here, because flagsaver would take away what is defined under it


@fitcore.register("schedule", "sawtooth")
@dataclasses.dataclass(frozen=True)
class Sawtooth:
    """Falls from the base to `lowest` times it, again and again."""

    period: int
    lowest: float = 0.1

    def __call__(self, step: Any, base: Any) -> Any:
        phase = tf.cast(step % self.period, tf.float32) / self.period
        return base * (1 - (1 - self.lowest) * phase)


@fitcore.register("stop", "never")
def never(why: str = "as you like it") -> fitcore.Hook:
    """Goes on."""
    return fitcore.Hook()


# --- specs ----------------------------------------------------------------------------------------------------------------

SPECS = {
    "cosine:100": Cosine(100),
    "cosine:100:0.001": Cosine(100, 0.001),
    "Cosine:steps=100:alpha=1": Cosine(100, alpha=1.0),
    "cosine:100,alpha=0.1": Cosine(100, alpha=0.1),
    "cosine:1e2": ValueError("`steps` must be an int. Received: 100.0"),
    "warmup:500,cosine:10000": Chain((Warmup(500), Cosine(10000))),
    "warmup:500,start=0.1,cosine:10000,alpha=0.5,base=3": Chain((Warmup(500, start=0.1), Cosine(10000, 3.0, 0.5))),
    "linear:10": Polynomial(10),
    "exponential:10:0.5,staircase=true": Exponential(10, 0.5, staircase=True),
    "cosine-restarts:5,base=none": CosineRestarts(5),
    "CosineRestarts:5": CosineRestarts(5),
    "piecewise:[100,200]:[0.1,0.01,0.001]": Piecewise((100, 200), (0.1, 0.01, 0.001)),
    "sawtooth:8,lowest=0.5": Sawtooth(8, 0.5),
    "cosin:5": ValueError("there is no schedule named 'cosin'. Did you mean 'cosine'? There are: "),
    "zzz": ValueError("there is no schedule named 'zzz'. There are: "),
    "cosine": ValueError("missing a required argument: 'steps'. Its parameters: steps, base=None, alpha=0.0."),
    "cosine:5,alfa=1": ValueError("unexpected keyword argument 'alfa'. Its parameters: steps, base=None, alpha=0.0."),
    "cosine:5:1:2:3": ValueError("too many positional arguments. Its parameters: steps, base=None, alpha=0.0."),
    "cosine:alpha=1:5": ValueError("'5' by its place comes after a parameter by name"),
    "cosine:5,alpha=1,alpha=2": ValueError("has 'alpha' twice"),
    "cosine:many": ValueError("`steps` must be an int. Received: 'many'"),
    "cosine:5,alpha=true": ValueError("`alpha` must be a float. Received: True"),
    "cosine:0": ValueError("schedule 'cosine:0': `steps` must be a number of at least 1. Received: steps=0"),
    "alpha=1": ValueError("must begin with a name"),
    "": ValueError("is no name"),
    "5:cosine": ValueError("'5' in '5:cosine' is no name"),
    "exponential:5:0.5,cosine:5": ValueError("only the last of a chain may have no end"),
}


@pytest.mark.parametrize("spec", SPECS)
def test_spec(spec: str) -> None:
    expected = SPECS[spec]
    if isinstance(expected, ValueError):
        with pytest.raises(ValueError, match=re.escape(str(expected))):
            make("schedule", spec)
    else:
        assert make("schedule", spec) == expected


def test_all_of_keras_optimizers_by_both_names() -> None:
    public = vars(keras.optimizers).items()
    classes = {name: each for name, each in public if isinstance(each, type) and issubclass(each, keras.optimizers.Optimizer)}
    made = {type(make("optimizer", name)) for name in registry.names("optimizer")}
    left = {"Optimizer", "LossScaleOptimizer", "MultiOptimizer"}
    assert made == {each for name, each in classes.items() if name not in left}
    assert type(make("optimizer", "AdamW")) is type(make("optimizer", "adam_w")) is keras.optimizers.AdamW
    config = make("optimizer", "adamw:1e-3,weight_decay=0.01,global_clipnorm=2,amsgrad=true").get_config()
    expected = {"weight_decay": 0.01, "global_clipnorm": 2, "amsgrad": True, "beta_1": 0.9}
    assert expected.items() <= config.items()
    assert math.isclose(config["learning_rate"], 1e-3, rel_tol=1e-6)
    sgd = make("optimizer", "sgd:1:0,nesterov=false")  # Keras itself wants floats
    assert (float(sgd.learning_rate), sgd.momentum) == (1.0, 0.0)
    with pytest.raises(ValueError, match="'adam,sgd' names 2 things; --optimizer takes one"):
        make("optimizer", "adam,sgd")


def test_the_other_kinds() -> None:
    stop = make("stop", "patience:5,monitor=loss")
    assert (stop.rule, stop.monitor) == (fitcore.Patience(5), "loss")
    assert isinstance(make("stop", "non_finite").rule, fitcore.NonFinite)
    smoothed = make("stop", "target:0.1:step/loss,smooth=0.9")
    assert (smoothed.rule, smoothed.monitor) == (fitcore.Smoothed(fitcore.Target(0.1), 0.9), "step/loss")
    assert isinstance(make("stop", "after:steps=100"), fitcore.StopAfter)
    assert isinstance(make("stop", "early_stopping:patience=2,restore_best=true"), fitcore.EarlyStopping)
    assert make("stop", "low_signal:1").in_loop == fitcore.LowSignal(1.0)
    assert make("noise", "auto") == GradientNoise()
    assert make("noise", "per_example:every=10,decay=1") == GradientNoise("per_example", every=10, decay=1.0)
    assert isinstance(make("schedule", "plateau:patience=3"), fitcore.Plateau)
    with pytest.raises(ValueError, match="`splits` must be at least 2"):
        make("noise", "split:splits=1")
    with pytest.raises(ValueError, match="`kind` must be one of schedule, optimizer, stop, noise"):
        fitcore.register("rule", "x")
    with pytest.raises(ValueError, match="`name` must be made of letters"):
        fitcore.register("stop", "a:b")
    with pytest.raises(ValueError, match=r"`name` must be new. Received: name='Saw_Tooth'"):
        fitcore.register("schedule", "Saw_Tooth")(Cosine)
    fitcore.register("schedule", "sawtooth")(Sawtooth)  # its module is imported again


# --- flags ----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def launched(monkeypatch: Any, capsys: Any, tmp_path: Path) -> Callable[..., tuple[Any, str, str]]:
    """Launches `main` with these spec flags in this process; returns (exit status, output, error output)."""

    def start(main: Any, flags: Any, *arguments: str) -> tuple[Any, str, str]:
        monkeypatch.setattr(sys, "argv", ["registry", "--nodeterministic", *arguments])
        with flagsaver.flagsaver(), pytest.raises(SystemExit) as stopped:
            launch.run(main, flags=flags)
        out, err = capsys.readouterr()
        return (1, out, err + stopped.value.code) if isinstance(stopped.value.code, str) else (stopped.value.code, out, err)

    monkeypatch.chdir(tmp_path)
    return start


ALL = {"optimizer": "sgd:0.1", "schedule": None, "stop": None, "noise": None}


def must_not_run(run: launch.RunDirectory) -> None:
    raise AssertionError("must not have been started")


def test_flags_make_what_the_experiment_uses(launched: Any, tmp_path: Path) -> None:
    found: list[Any] = []

    def main(run: launch.RunDirectory) -> None:
        first, second = run.optimizer(), run.optimizer()
        assert first is not second
        found.append((type(first).__name__, run.schedule(), [type(hook).__name__ for hook in run.hooks()], run.noise()))
        assert all(a is not b for a, b in zip(run.hooks(), run.hooks()))
        model = linear(optimizer=first)
        arguments: dict[str, Any] = {"schedule": run.schedule(), "hooks": run.hooks(), "noise": run.noise()}
        history = fitcore.fit(model, *data(8), batch_size=4, verbose=0, record=["step/learning_rate"], **arguments)
        found.append(history.steps["step/learning_rate"].tolist())

    given = (
        "--optimizer=adamw:1e-3",
        "--schedule=sawtooth:2,lowest=0.5",
        "--schedule=weight_decay=linear:9",
        "--noise=split:1",
    )
    stops = ("--stop=non_finite", "--stop=never", "--stop=patience:5:loss")
    assert launched(main, ALL, *given, *stops, "--logdir=first")[0] == 0
    assert found[0] == (
        "AdamW",
        {"learning_rate": Sawtooth(2, 0.5), "weight_decay": Polynomial(9)},
        ["StopOn", "Hook", "StopOn"],
        GradientNoise("split", every=1),
    )
    assert found[1] == pytest.approx([1e-3, 0.75e-3])
    text = (tmp_path / "first" / "flags.txt").read_text()
    for flag in (*given, *stops):
        assert f"{flag}\n" in text
    again = launched(main, ALL, "--flagfile=first/flags.txt", "--logdir=again")
    assert again[0] == 0
    assert found[:2] == found[2:]
    assert (tmp_path / "again" / "flags.txt").read_text() == text


def test_defaults_and_flags_that_stand_alone(launched: Any, tmp_path: Path) -> None:
    found: list[Any] = []

    def main(run: launch.RunDirectory) -> None:
        rate = float(run.optimizer().learning_rate)
        found.append((rate, run.schedule(), run.noise(), [type(hook).__name__ for hook in run.hooks()]))

    assert launched(main, ALL)[0] == 0
    assert launched(main, ALL, "--noise", "--schedule=plateau:patience=3", "--logdir=run")[0] == 0
    assert "--noise=auto\n" in (tmp_path / "run" / "flags.txt").read_text()
    assert launched(main, ALL, "--flagfile=run/flags.txt", "--nonoise", "--optimizer=sgd:0.5")[0] == 0
    rate = pytest.approx(0.1)
    assert found == [(rate, {}, False, []), (rate, {}, GradientNoise(), ["Plateau"]), (0.5, {}, False, ["Plateau"])]


def test_wrong_specs_are_refused_before_anything_runs(launched: Any, tmp_path: Path) -> None:
    for flag, message in (
        ("--schedule=cosin:5", "flag --schedule=cosin:5: there is no schedule named 'cosin'. Did you mean 'cosine'?"),
        ("--optimizer=adam:learnin_rate=1", "unexpected keyword argument 'learnin_rate'. Its parameters: learning_rate=0.001"),
        ("--optimizer=adam:fast", "`learning_rate` must be a float. Received: 'fast'"),
        ("--stop=patience", "missing a required argument: 'patience'"),
        ("--noise=split:splits=1", "`splits` must be at least 2"),
    ):
        status, _, err = launched(must_not_run, ALL, flag)
        assert (status, message in err) == (1, True), err
    status, _, err = launched(must_not_run, ALL, "--schedule=cosine:5", "--schedule=linear:5")
    assert (status, "--schedule: learning_rate is scheduled twice" in err) == (1, True)
    assert not (tmp_path / "runs").exists()
    with pytest.raises(ValueError, match=r"must name some of .*, precision, numerics, strategy\. Received: 'speed'"):
        launch.run(must_not_run, flags={"speed": None})


def test_no_flag_is_ignored_silently(launched: Any) -> None:
    status, _, err = launched(lambda run: None, ALL, "--schedule=cosine:5")
    assert (status, "--schedule was given, but the experiment never asked for it" in err) == (0, True)
    assert "--noise was" not in err

    def asks(run: launch.RunDirectory) -> None:
        with pytest.raises(ValueError, match=r"`flags` of launch.run must name 'schedule'"):
            run.schedule()

    assert launched(asks, {"noise": None})[0] == 0


def test_helpfull_lists_everything_with_parameters(launched: Any) -> None:
    status, out, _ = launched(must_not_run, ALL, "--helpfull")
    text = " ".join(out.split())
    assert status == 1  # absl's own
    for kind in registry.KINDS:
        for name in registry.names(kind):
            assert f"- {name}(" in text
    assert "- sawtooth(period, lowest=0.1): Falls from the base to `lowest` times it, again and again." in text
    assert "- never(why=as you like it): Goes on." in text
    assert "- per_example(every=1, splits=4, hessian_every=0" in text
    _, out, _ = launched(must_not_run, ALL, "--help")
    text = " ".join(out.split())
    assert "constant, cosine, cosine_restarts" in text
    assert "lowest=0.1" not in text
    assert "(default: 'sgd:0.1')" in text


def test_python_m_fitcore_takes_noise_with_and_without_a_spec() -> None:
    given = ["--noise", "--logdir", "d", "script.py", "--noise", "x"]
    assert __main__._with_values(given) == ["--noise=auto", *given[1:]]
    given = ["--logdir", "d", "--noise=split", "script.py", "--noise"]
    assert __main__._with_values(given) == given
