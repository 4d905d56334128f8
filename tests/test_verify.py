"""python -m fitcore.verify: a run launched again and compared; digests of variables per epoch."""

import json
import math
import os
import subprocess
import sys
import warnings
from pathlib import Path

import keras
import ml_dtypes
import nudged
import numpy as np
import pytest
import tensorflow as tf

import fitcore
from fitcore import verify
from fitcore.command_line import digests, launch
from fitcore.command_line.environment import surroundings


@pytest.fixture
def recorded(tmp_path):
    """Makes a finished run's directory out of fits in this process: {name: arguments of the fit above}."""

    def record(folder, fits, result=None):
        keras.utils.clear_session()
        keras.utils.set_random_seed(0)
        run = launch.RunDirectory(tmp_path / folder)
        run.path.mkdir()
        for name, arguments in fits.items():
            nudged.fit(name, [run.history(name)], **arguments)
        run.write_histories()
        (run.path / "result.json").write_text(json.dumps(result or {}))
        return run.path

    return record


@pytest.fixture
def written(tmp_path):
    """Writes the two files that are compared, as they are given."""

    def write(folder, history, result=None):
        path = tmp_path / folder
        path.mkdir()
        (path / "history.json").write_text(json.dumps(history))
        (path / "result.json").write_text(json.dumps({} if result is None else result))
        return path

    return write


def a_fit(steps=(), history=(), digests=(), first_step=0, epoch=(0, 1, 2)):
    return {
        "epoch": list(epoch),
        "history": dict(history),
        "first_step": first_step,
        "steps": dict(steps),
        "digests": dict(digests),
    }


def in_words(before, now):
    return [f"{each.place}: {each.says}" for each in verify.compare(before, now)]


# --- comparing ---------------------------------------------------------------------------------------------------------------


def test_the_same_run_is_identical(recorded):
    fits = {"one": {}, "two": {"fit": keras.Model.fit}}
    before, now = recorded("before", fits), recorded("now", fits)
    assert verify.compare(before, now) == []
    kept = json.loads((before / "history.json").read_text())
    assert [len(found) for found in kept["one"]["digests"].values()] == [4] * 4  # kernels, iteration, learning rate


@pytest.mark.parametrize("after", [1, 3, 4, 7, 11])  # of three steps per epoch
def test_one_bit_of_one_variable_is_found_where_it_changed(recorded, after):
    before = recorded("before", {"one": {}, "two": {}})
    (found,) = verify.compare(before, recorded("now", {"one": {}, "two": {"nudge_after": after}}))
    assert (found.place, found.step, found.variable, found.epoch) == ("two", after, "two_second/kernel", (after - 1) // 3)
    curve = json.loads((before / "history.json").read_text())["two"]["steps"]["step/loss"]
    assert found.says.startswith(f"step {after}, step/loss {curve[after]} (recorded) and ")
    assert f" (now); variable two_second/kernel from epoch {(after - 1) // 3} on" in found.says


def test_a_change_after_the_last_step_is_found_in_the_variables(recorded):
    before = recorded("before", {"two": {}})
    (found,) = verify.compare(before, recorded("now", {"two": {"nudge_after": 12}}))
    assert (found.step, found.says) == (None, "variable two_second/kernel from epoch 3 on")


def test_steps_epochs_and_curves_are_named(written):
    before = a_fit(
        {"a": [1, 2, 3], "step/loss": [1, 2, 3]}, {"loss": [0.5, 0.25]}, {"w": ["0", "1"], "v": ["0", "2"]}, 100, [5, 6]
    )
    now = a_fit(
        {"a": [1, 2, 4], "step/loss": [1, 2, 5]}, {"loss": [0.5, 0.125]}, {"w": ["0", "2"], "v": ["0", "1"]}, 100, [5, 6]
    )
    assert in_words(written("before", {"fit": before}), written("now", {"fit": now})) == [
        "fit: step 102, step/loss 3 (recorded) and 5 (now); variable w and 1 more from epoch 6 on; "
        "History of epoch 6, loss 0.25 (recorded) and 0.125 (now)"
    ]


@pytest.mark.parametrize(
    ("before", "now", "says"),
    [
        ([1.0, 2.0], [1.0], "step 1, step/loss 2.0 (recorded) and nothing (now)"),
        ([1.0], [1.0, 2.0], "step 1, step/loss nothing (recorded) and 2.0 (now)"),
        ([0.0], [-0.0], "step 0, step/loss 0.0 (recorded) and -0.0 (now)"),
        ([0.1, math.nan], [0.1, math.inf], "step 1, step/loss nan (recorded) and inf (now)"),
        ([0.1], [math.nextafter(0.1, 1)], "step 0, step/loss 0.1 (recorded) and 0.10000000000000002 (now)"),
        ([[1, 2], [3, 4]], [[1, 2], [3, 5]], "step 1, step/loss [3, 4] (recorded) and [3, 5] (now)"),
    ],
)
def test_every_bit_and_every_step_counts(written, before, now, says):
    paths = [written(name, {"fit": a_fit({"step/loss": values})}) for name, values in (("before", before), ("now", now))]
    assert in_words(*paths) == [f"fit: {says}"]


def test_nan_is_the_same_as_nan(written):
    fit = {"fit": a_fit({"step/loss": [math.nan]}, {"loss": [math.nan]})}
    assert in_words(written("before", fit), written("now", fit)) == []


def test_fits_and_curves_that_only_one_run_has(written):
    before = {"gone": a_fit(), "fit": a_fit({"step/loss": [1.0]})}
    now = {"fit": a_fit({"step/loss": [1.0], "step/rows": [4.0]}), "new": a_fit()}
    assert in_words(written("before", before), written("now", now)) == [
        "gone: only one has this fit (recorded)",
        "fit: step 0, step/rows nothing (recorded) and 4.0 (now)",
        "new: only one has this fit (now)",
    ]


def test_a_run_from_before_there_were_digests(written):
    before, now = a_fit({"step/loss": [1.0]}), a_fit({"step/loss": [1.0]}, digests={"w": ["0"]})
    del before["digests"]
    assert in_words(written("before", {"fit": before}), written("now", {"fit": now})) == []


def test_results_are_compared_but_for_measured_times(written):
    before = {
        "models": {"cnn": {"weights_sha256": "ab", "accuracy": [0.5, 0.75], "first_fit_seconds": {"fitcore": 1.0}}},
        "warm_microseconds_per_step": 3.0,
        "claims": [{"timed": True, "because": "1 s"}, {"timed": False, "because": "1.5"}],
    }
    now = json.loads(json.dumps(before))
    now["models"]["cnn"]["first_fit_seconds"], now["warm_microseconds_per_step"] = {"fitcore": 2.0}, 4.0
    now["claims"][0]["because"] = "2 s"
    path = written("before", {}, before)
    assert in_words(path, written("now", {}, now)) == []
    now["models"]["cnn"]["weights_sha256"] = "cd"
    assert in_words(path, written("sha", {}, now)) == ["result.json: models.cnn.weights_sha256, ab (recorded) and cd (now)"]
    now["models"]["cnn"]["accuracy"].append(0.875)
    now["claims"][1]["because"] = "1.25"
    assert in_words(path, written("all", {}, now)) == [
        "result.json: models.cnn.weights_sha256 and 2 more, ab (recorded) and cd (now)"
    ]


# --- digests -----------------------------------------------------------------------------------------------------------------


def test_fit_and_model_fit_have_the_same_digests():
    found = []
    for fit in (fitcore.fit, keras.Model.fit):
        keras.utils.set_random_seed(0)
        keras.utils.clear_session()
        model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4), keras.layers.Dropout(0.5), keras.layers.Dense(1)])
        model.compile("adam", "mse")
        history = digests.DigestingHistory()
        fit(model, np.ones((12, 3)), np.ones((12, 1)), batch_size=4, epochs=3, verbose=0, callbacks=[history])
        assert model.history is history
        found.append(history.digests)
    assert found[0] == found[1]
    assert len(found[0]) == len(model.variables) + len(model.optimizer.variables) == 15
    assert len(set(found[0]["sequential/dense/kernel"])) == 3
    assert [found[0][v.path][-1] for v in model.variables] == [digests.digest(v) for v in model.variables]


def test_an_engine_has_digests_too():
    model = keras.layers.Dense(1)
    model.build((None, 2))
    engine = fitcore.Engine(model, optimizer=keras.optimizers.SGD(), loss=keras.losses.MeanSquaredError())
    history = digests.DigestingHistory()
    fitcore.fit(engine, np.ones((4, 2), "float32"), np.ones((4, 1), "float32"), epochs=2, verbose=0, callbacks=[history])
    assert {name.lower(): len(found) for name, found in history.digests.items()} == {  # Keras 3.12 writes SGD
        "dense/kernel": 2, "dense/bias": 2, "sgd/iteration": 2, "sgd/learning_rate": 2
    }  # fmt: skip


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16", "float16", "int64", "bool"])
def test_every_bit_changes_a_digest(dtype):
    zeros = np.zeros((2, 3), ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    seen = {digests.digest(tf.Variable(zeros))}
    bits = range(0, 8 * zeros.nbytes, 8 if dtype == "bool" else 1)
    for bit in bits:
        value = bytearray(zeros.tobytes())
        value[bit // 8] |= 1 << bit % 8
        seen.add(digests.digest(tf.Variable(np.frombuffer(bytes(value), zeros.dtype).reshape(2, 3))))
    assert len(seen) == 1 + len(bits)


def test_variables_that_share_a_path_are_kept_apart():
    shared = [keras.Variable(np.full(2, value, "float32"), name="same") for value in (1, 2, 3)]
    history = digests.DigestingHistory()

    class Target:
        variables = shared
        history = None

    history.set_model(Target())
    history.on_train_begin()
    history.on_epoch_end(0, {})
    assert list(history.digests) == ["same", "same (2)", "same (3)"]


def test_a_resumed_run_is_that_of_one_that_was_never_stopped(tmp_path):
    class Stopped(Exception):
        pass

    def stop(epoch, logs):
        if epoch == 2:
            raise Stopped

    def train(folder, callback=None, checkpoint=None):
        keras.utils.clear_session()
        keras.utils.set_random_seed(0)
        run = launch.RunDirectory(tmp_path / folder)
        run.path.mkdir()
        others = [] if callback is None else [callback]
        nudged.fit("fit", [run.history("fit"), *others], checkpoint=checkpoint)
        run.write_histories()
        (run.path / "result.json").write_text("{}")
        return run.path

    whole = train("whole")
    checkpoint = fitcore.Checkpoint(tmp_path / "saved", every="2 epochs")
    epochs = []
    seen = keras.callbacks.LambdaCallback(on_epoch_begin=lambda epoch, logs: epochs.append(epoch))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # none that something of the History is not saved
        with pytest.raises(Stopped):
            train("stopped", keras.callbacks.LambdaCallback(on_epoch_end=stop), checkpoint)
        resumed, answered = train("resumed", seen, checkpoint), train("answered", seen, checkpoint)
    assert epochs == [2, 3]
    assert verify.compare(whole, resumed) == verify.compare(whole, answered) == []


# --- launching ---------------------------------------------------------------------------------------------------------------


@pytest.fixture
def finished(written, monkeypatch, tmp_path):
    """A finished run's directory, of a script that a test may replace; the current folder is the one that it's in."""
    monkeypatch.chdir(tmp_path)
    path = written("run", {"fit": a_fit({"step/loss": [1.0]})})
    environment = {"experiment": "script", "command": "python script.py --epochs=1", **surroundings()}
    (path / "environment.json").write_text(json.dumps(environment))
    (path / "flags.txt").write_text("--epochs=1\n")
    (tmp_path / "script.py").write_text("import sys\nprint('words')\nsys.exit('out of luck')\n")
    return path


def changed(path, **facts):
    environment = path / "environment.json"
    environment.write_text(json.dumps(json.loads(environment.read_text()) | facts))


def refused(capsys, *arguments):
    assert verify.main([*map(str, arguments)]) == 2
    out, err = capsys.readouterr()
    assert "verify: " not in out
    assert err.startswith("verify: can't be verified: ")
    return err


@pytest.mark.parametrize("name", verify.FILES)
def test_what_is_no_finished_run_is_refused(finished, capsys, name):
    (finished / name).unlink()
    why = "the run has not finished" if name == "result.json" else "this is not the directory of a run"
    assert refused(capsys, finished) == f"verify: can't be verified: {finished} holds no {name}: {why}\n"


def test_what_is_no_directory_is_refused(tmp_path, capsys):
    assert "nowhere is no directory" in refused(capsys, tmp_path / "nowhere")


def test_files_that_cannot_be_read_are_refused(finished, capsys):
    (finished / "environment.json").write_text("{")
    assert f"{finished / 'environment.json'} can't be read: Expecting" in refused(capsys, finished)


def test_an_experiment_that_is_not_there_is_refused(finished, capsys, tmp_path):
    changed(finished, experiment="nosuch.thing", command="python -m nosuch.thing --epochs=1")
    err = refused(capsys, finished)
    assert "the experiment nosuch.thing can't be imported: No module named 'nosuch'" in err
    assert "launched by: python -m nosuch.thing --epochs=1. Start this from the folder" in err
    changed(finished, experiment="fitcore.nosuch", command="python -m fitcore.nosuch")
    assert "fitcore.nosuch can't be imported: there is no such module" in refused(capsys, finished)
    changed(finished, experiment="script", command="python elsewhere/script.py")
    assert "the experiment's script elsewhere/script.py isn't there" in refused(capsys, finished)


def test_a_run_that_fails_when_launched_again_is_refused_with_its_last_words(finished, capsys):
    err = refused(capsys, finished)
    assert "launched again, the run did not finish: exit status 1\nwords\nout of luck\n" in err


def test_nothing_is_overwritten(finished, capsys, tmp_path):
    (tmp_path / "script.py").rename(tmp_path / "kept")
    for into in (finished, tmp_path / "kept"):
        assert f"--into {into}: nothing is overwritten" in refused(capsys, finished, "--into", into)


def test_a_run_that_recorded_nothing_is_refused(written):
    with pytest.raises(verify.CannotVerifyError, match="recorded no fit"):
        verify.compare(written("before", {}), written("now", {}))


@pytest.mark.parametrize(
    ("command", "experiment", "program"),
    [
        ("python -m fitcore.verify --epochs=1", "fitcore.verify", ["-m", "fitcore.verify"]),
        ("python -mfitcore.verify", "fitcore.verify", ["-m", "fitcore.verify"]),
        ("python -Wimport -X dev -um fitcore", "fitcore.__main__", ["-Wimport", "-X", "dev", "-um", "fitcore.__main__"]),
        ("/usr/bin/python3 -W error -O script.py -m x", "script", ["-W", "error", "-O", "script.py"]),
    ],
)
def test_the_program_in_a_recorded_command(finished, command, experiment, program):
    assert verify.program({"experiment": experiment, "command": command}) == program


def test_other_surroundings_are_said_before_the_run_is_launched(finished, capsys):
    here = surroundings()
    changed(finished, deterministic=False, git_commit="abc", versions={**here["versions"], "keras": "3.0"}, cpu_cores=1000)
    assert verify.main([str(finished)]) == 2  # the script fails; what was said before stands
    said = capsys.readouterr().out.splitlines()
    assert said[:4] == [
        f"The bits may differ: `cpu_cores` was 1000, is {os.cpu_count()}",
        f"The bits may differ: `git_commit` was 'abc', is {here['git_commit']!r}",
        f"The bits may differ: `versions.keras` was '3.0', is '{keras.__version__}'",
        "The bits may differ: the run was launched with --nodeterministic",
    ]
    assert said[4].startswith("Launching ")


def python(*arguments, cwd=None, **environment):
    done = subprocess.run(
        [sys.executable, *arguments], cwd=cwd, capture_output=True, text=True, timeout=600, env=os.environ | environment
    )
    return done.returncode, done.stdout.splitlines(), done.stderr


@pytest.mark.slow
def test_a_run_is_launched_again_and_what_was_tampered_with_is_found(tmp_path):
    run, kept, here = tmp_path / "run", tmp_path / "kept", Path(__file__).parent
    status, _, err = python("-m", "nudged", "--seed=3", f"--logdir={run}", cwd=here)
    assert status == 0, err
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}

    status, out, err = python("-m", "fitcore.verify", str(run), f"--into={kept}", cwd=here)
    assert (status, out[-1:]) == (0, ["verify: identical"]), err
    assert "  two (12 steps recorded, 4 epochs, 4 variables): identical" in out
    assert (kept / "flags.txt").read_bytes() == before[run / "flags.txt"]
    assert "--seed=3" in (kept / "flags.txt").read_text().splitlines()

    status, out, err = python("-m", "fitcore.verify", str(run), cwd=here, NUDGE_AFTER="5")
    curve = json.loads((run / "history.json").read_text())["two"]["steps"]["step/loss"]
    assert (status, out[-1].startswith(f"verify: differs: two: step 5, step/loss {curve[5]} (recorded) and ")) == (1, True), err
    assert "; variable two_second/kernel from epoch 1 on; " in out[-1]
    assert "  one (12 steps recorded, 4 epochs, 4 variables): identical" in out
    assert any(line.startswith("  result.json: weights_sha256, ") for line in out)
    assert before == {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}


@pytest.mark.slow
def test_the_digits_are_verified(tmp_path):
    run = tmp_path / "run"
    status, _, err = python("-m", "experiments.digits", "--epochs=2", "--rows=330", f"--logdir={run}")
    assert status == 0, err
    status, out, err = python("-m", "fitcore.verify", str(run))
    assert (status, out[-1]) == (0, "verify: identical"), err
    assert "  cnn/fitcore (18 steps recorded, 2 epochs, 37 variables): identical" in out
    assert "  result.json: identical, measured times left out" in out
