"""The flags that every experiment has, or may ask for: --dry_run, --profile, --device, --precision; the list of experiments."""

import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from models import data, linear

import fitcore
from experiments import listing
from fitcore import fitting
from fitcore.command_line import launch
from fitcore.command_line.profile import Profile, parse

X = np.ones((12, 3), "float32")
QUIET = ("--nodeterministic", "--verbose=0")  # op determinism can't be switched off again


def train(run, fit=fitcore.fit, **arguments):
    return fit(linear(), X, X[:, :1], **({"batch_size": 3, "epochs": 3, "verbose": 0} | arguments))


def by_engine(run):
    engine = fitcore.Engine.of_compiled(linear())
    stream = fitcore.Stream(fitcore.make_source(X, X[:, :1], batch_size=3))
    stream.begin_epoch()
    engine.train(stream, 4)


# --- --dry_run ---------------------------------------------------------------------------------------------------------------


def test_a_dry_run_explains_the_first_fit_and_leaves_nothing(launched, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    models = []

    def main(run):
        models.append(linear())
        models[0].weights[0].assign(X[0, :, None])
        hooks = [fitcore.TensorBoard(run.path / "events")]
        given = {"batch_size": 3, "epochs": 7, "hooks": hooks, "checkpoint": run.checkpoint("fit")}
        fitcore.fit(models[0], X, X[:, :1], **given)
        pytest.fail("trained")

    status, out, err = launched(main, "--dry_run", *QUIET, "--checkpoint_every=5 steps")
    assert (status, err) == (0, "")
    assert ": 7 epochs of 4 steps\n" in out
    assert "checkpoint  every 5 steps, in RUN/checkpoints/fit" in out
    assert out.endswith("--dry_run stops.\n")
    assert not os.listdir(tmp_path)
    assert models[0].weights[0].numpy().ravel().tolist() == [1, 1, 1]
    assert models[0].optimizer.iterations == 0
    assert fitting.on_begin is None
    assert len(train(None).history["loss"]) == 3  # afterwards all is as it was


@pytest.mark.parametrize(
    ("main", "says"),
    [
        (lambda run: train(run, keras.Model.fit), "Keras's own model.fit"),
        (lambda run: linear().train_on_batch(X, X[:, :1]), "Keras's own model.train_on_batch"),
        (lambda run: fitcore.train_on_batch(linear(), X, X[:, :1]), "train_on_batch"),
        (by_engine, "A loop of the experiment's own, by Engine.train"),
    ],
)
def test_a_dry_run_trains_in_no_other_way_either(launched, main, says):
    status, out, _ = launched(main, "--dry_run", *QUIET)
    assert (status, says in out, "--dry_run stops" in out) == (0, True, True)


def test_a_dry_run_without_a_fit_and_one_of_a_wrong_fit(launched):
    assert "came to its end without a fit" in launched(lambda run: None, "--dry_run", *QUIET)[1]
    with pytest.raises(ValueError, match="`numerics`"):
        launched(lambda run: train(run, numerics="loose"), "--dry_run", *QUIET)


# --- --profile ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("first", "last"), [(5, 7), (0, 3), (4, 9)])
def test_calls_end_at_the_profiled_steps(tmp_path, monkeypatch, first, last):
    seen = []
    monkeypatch.setattr(tf.profiler.experimental, "start", lambda path: seen.append(path))
    monkeypatch.setattr(tf.profiler.experimental, "stop", lambda: seen.append("stop"))
    real = fitcore.Engine.train

    def noted(engine, *arguments, **keywords):
        chunk = real(engine, *arguments, **keywords)
        seen.append(chunk.steps)
        return chunk

    monkeypatch.setattr(fitcore.Engine, "train", noted)
    profile = Profile(tmp_path, first, last)
    train(None, hooks=[profile], batch_size=1)  # 12 steps per epoch
    start, stop = seen.index(str(tmp_path)), seen.index("stop")
    assert (sum(seen[:start]), sum(seen[start + 1 : stop])) == (first, last - first)
    assert seen[stop + 1 :] == [12 - last, 12, 12]  # and nowhere else
    train(None, hooks=[profile])  # it is done
    assert seen.count("stop") == 1


def test_a_profile_is_written_and_changes_no_bit(launched, tmp_path):
    weights = []

    def main(run):
        keras.utils.set_random_seed(0)
        model = linear()
        fitcore.fit(model, X, X[:, :1], batch_size=3, epochs=2, verbose=0, callbacks=[run.history("fit")])
        weights.append(model.get_weights()[0].tolist())

    for name, more in (("profiled", ["--profile=2:4"]), ("plain", [])):
        status, _, err = launched(main, f"--logdir={tmp_path / name}", *QUIET, *more)
        assert (status, "--profile" in err) == (0, False)
    assert list((tmp_path / "profiled").glob("plugins/profile/*/*.xplane.pb"))
    assert weights[0] == weights[1]


def test_a_profile_that_is_not_reached_is_told(launched, tmp_path):
    main = lambda run: train(run, callbacks=[run.history("fit")]) and {}  # noqa: E731
    assert "no fit with a `run.history` got so far" in launched(main, f"--logdir={tmp_path}", *QUIET, "--profile=100:110")[2]


@pytest.mark.parametrize("steps", ["100", "5:5", "7:3", "a:b", "-1:2"])
def test_a_wrong_profile_is_refused(launched, steps):
    with pytest.raises(ValueError, match="FIRST:LAST"):
        parse(steps)
    status, _, err = launched(lambda run: pytest.fail("started"), f"--profile={steps}")
    assert (status, "must be FIRST:LAST" in err) == (1, True)


# --- --device, --precision ---------------------------------------------------------------------------------------------------


def test_a_device_that_is_not_there_is_refused(launched, tmp_path, monkeypatch):
    hidden = []
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind=None: [])
    monkeypatch.setattr(tf.config, "set_visible_devices", lambda *arguments: hidden.append(arguments))
    status, _, err = launched(lambda run: pytest.fail("started"), "--device=gpu", f"--logdir={tmp_path / 'gpu'}", *QUIET)
    assert (status, "--device=gpu: TensorFlow finds no GPU" in err) == (1, True)
    assert launched(lambda run: {}, "--device=auto", f"--logdir={tmp_path / 'auto'}", *QUIET)[0] == 0
    assert (hidden, (tmp_path / "gpu").exists()) == ([], False)
    assert launched(lambda run: {}, "--device=cpu", f"--logdir={tmp_path / 'cpu'}", *QUIET)[0] == 0
    assert hidden == [([], "GPU")]


def test_the_precision_is_the_layers_and_only_where_asked_for(launched, tmp_path, monkeypatch):
    seen = []

    def main(run):
        layer = linear().layers[-1]
        seen.append((layer.compute_dtype, layer.variable_dtype))

    status, _, err = launched(main, "--precision=float64", f"--logdir={tmp_path / 'a'}", *QUIET)
    assert (status, "Unknown command line flag 'precision'" in err) == (1, True)
    with monkeypatch.context() as patch:
        patch.setattr(launch, "run", lambda main, run=launch.run: run(main, flags={"precision": None}))
        for value in ("mixed_bfloat16", "float64"):
            assert launched(main, f"--precision={value}", f"--logdir={tmp_path / value}", *QUIET)[0] == 0
        assert launched(main, "--precision=float8", *QUIET)[0] == 1
    assert seen == [("bfloat16", "float32"), ("float64", "float64")]
    assert "--precision=float64\n" in (tmp_path / "float64" / "flags.txt").read_text()


def test_the_numerics_are_fits(launched, tmp_path, monkeypatch):
    seen = []

    def main(run):
        fitcore.fit(linear(), *data(8), verbose=0, **run.numerics())
        seen.append(run.numerics())

    monkeypatch.setattr(launch, "run", lambda main, run=launch.run: run(main, flags={"numerics": "exact"}))
    for i, given in enumerate(([], ["--numerics=fast:graph"], ["--numerics=fast:xla"])):
        assert launched(main, *given, f"--logdir={tmp_path / str(i)}", *QUIET)[0] == 0
    plans = [("exact", "auto"), ("fast", "graph"), ("fast", "xla")]
    assert seen == [{"numerics": numerics, "plan": plan} for numerics, plan in plans]
    assert launched(main, "--numerics=xla", *QUIET)[0] == 1


# --- python -m experiments ---------------------------------------------------------------------------------------------------


def test_the_experiments_are_listed_without_importing_them(tmp_path):
    for module in ("tensorflow", "keras"):
        (tmp_path / f"{module}.py").write_text("raise AssertionError('loaded')")
    root = Path(listing.__file__).parent.parent
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{root}"}

    def experiments(name=""):
        command = [sys.executable, "-m", f"experiments{name}"]
        return subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=60)

    done = experiments()
    assert (done.returncode, done.stderr) == (0, "")
    lines = {
        line.split()[2].removeprefix("experiments."): line for line in done.stdout.splitlines() if line.startswith("python")
    }
    assert lines.keys() == {path.stem for path in (root / "experiments").glob("*.py")} - {"__init__", "__main__", "listing"}
    assert lines["digits"].endswith("Handwritten digits, trained by fitcore and by `model.fit` side by side.")
    wrong = experiments(".digts")
    assert wrong.returncode == 1
    assert wrong.stderr == "There is no experiment 'digts'. Did you mean 'digits'? python -m experiments lists them.\n"
