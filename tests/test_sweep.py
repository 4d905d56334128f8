"""--sweep: which settings, how they are run and what is done when some are missing; the table, and TensorBoard's HParams."""

import os
import shlex
import signal
import subprocess
import sys
import time

import pytest
from absl import flags
from tensorboard import context
from tensorboard.backend.event_processing import data_provider, plugin_event_multiplexer
from tensorboard.plugins import base_plugin
from tensorboard.plugins.hparams import api_pb2, backend_context, list_session_groups

from fitcore.command_line import records, run_state, sweep
from fitcore.command_line.sweep_settings import SweepError, folder_of, parse
from fitcore.hooks import hparams

RATE = flags.DEFINE_float("learning_rate", 0.1, "A flag of the experiments here.", lower_bound=0.0)
OPTIMIZER = flags.DEFINE_string("optimiser", "sgd", "Another.")


# --- settings ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "settings"),
    [
        ("a=1,2", [{"a": "1"}, {"a": "2"}]),
        ("a=1e-3,x;seed=0..1", [{"a": a, "seed": s} for a in ("1e-3", "x") for s in "01"]),
        ("zip(a=1,2;b=3,4);c=5,6", [{"a": a, "b": b, "c": c} for a, b in ("13", "24") for c in "56"]),
        ("a=-1..1,7", [{"a": a} for a in ("-1", "0", "1", "7")]),
        ('o="adam:1,b=2",piecewise:[1,2]:[3,4]', [{"o": "adam:1,b=2"}, {"o": "piecewise:[1,2]:[3,4]"}]),
        ("zip(a=0..2;b=x,y,z)", [{"a": a, "b": b} for a, b in zip("012", "xyz")]),
    ],
)
def test_settings(text, settings):
    assert parse(text) == settings


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a", "'a' must be like"),
        ("a=1;a=2", "'a' is swept twice"),
        ("zip(a=1;a=2)", "twice"),
        ("zip(a=1,2;b=3)", "a 2, b 1"),
        ("a=3..1", "must not be above"),
        ("a=1,1", "has the value '1' twice"),
        ("a=1;;b=2", "must be like"),
    ],
)
def test_what_is_no_sweep_is_refused(text, says):
    with pytest.raises(SweepError, match=says):
        parse(text)


def test_each_setting_has_a_folder_of_its_own():
    settings = [{"o": value} for value in ("adam:1", "adam_1", "adam/1", "x" * 300, "x" * 301, "")]
    names = [folder_of(setting) for setting in settings]
    assert len(set(names)) == len(names)
    assert all(len(name) < 200 and "/" not in name for name in names)
    assert folder_of({"learning_rate": "1e-3", "seed": "0"}) == "learning_rate=1e-3,seed=0"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--sweep=learning_rat=1"], "Did you mean 'learning_rate'?"),
        (["--sweep=learning_rate=-1"], "--sweep: learning_rate=-1: "),
        (["--sweep=learning_rate=fast"], "--sweep: learning_rate=fast: "),
        (["--sweep=learning_rate=1", "--learning_rate=2"], "and --learning_rate given besides"),
        (["--sweep=logdir=a,b"], "there is no flag 'logdir' to sweep"),
        (["--sweep=a"], "must be like"),
        (["--sweep=learning_rate=1", "--dry_run"], "--dry_run is for one run"),
        (["--jobs=2"], "--jobs goes with --sweep"),
        (["--hparams=no_flag"], "--hparams: there is no flag 'no_flag'"),
    ],
)
def test_wrong_sweeps_are_named_before_anything_runs(launched, monkeypatch, tmp_path, arguments, says):
    monkeypatch.chdir(tmp_path)
    with_key_flags(monkeypatch)
    status, _, err = launched(lambda run: pytest.fail("must not run"), *arguments)
    assert (status, says in err, err) == (1, True, err)
    assert not os.listdir(tmp_path)


def with_key_flags(monkeypatch):
    """The flags of this module are the experiment's, as if it were the script."""
    own = flags.FlagValues.get_key_flags_for_module
    mine = [flags.FLAGS["learning_rate"], flags.FLAGS["optimiser"]]
    monkeypatch.setattr(flags.FlagValues, "get_key_flags_for_module", lambda self, module: [*own(self, module), *mine])


# --- runs, of which a script plays the part ----------------------------------------------------------------------------------

# What a run leaves behind, without TensorFlow, which takes seconds to load: it holds the lock, and finishes, fails, or is slow.
STAND_IN = """
import fcntl, json, pathlib, sys, time
folder, rate, seed = pathlib.Path(sys.argv[1]), *sys.argv[2:]
lock = open(folder / "lock", "w")
fcntl.flock(lock, fcntl.LOCK_EX)
(folder / "flags.txt").write_text(f"--learning_rate={rate}\\n--seed={seed}\\n")
with open(folder.parent / "starts", "a") as file:
    file.write(f"{rate} {seed}\\n")
time.sleep(float((folder.parent / "slow").read_text()) if (folder.parent / "slow").exists() else 0)
if rate == "0.5" and (folder.parent / "fails").exists():
    (folder / "status.json").write_text(json.dumps({"error": "ValueError: out of luck"}))
    sys.exit(1)
(folder / "result.json").write_text(json.dumps({"loss": float(rate) + int(seed), "passed": True}))
with open(folder.parent / "ends", "a") as file:
    file.write(f"{rate} {seed}\\n")
"""


@pytest.fixture
def sweeping(launched, monkeypatch, tmp_path):
    """Sweeps the stand-in's learning rate and seed in tmp_path/sweep; returns (exit status, output, error output)."""
    (tmp_path / "sweep").mkdir()
    with_key_flags(monkeypatch)
    monkeypatch.setattr(sweep, "_check_flags", lambda runs: None)
    command = lambda path, setting: [sys.executable, "-c", STAND_IN, str(path), *setting.values()]  # noqa: E731
    monkeypatch.setattr(sweep, "_command", command)
    monkeypatch.setattr(sweep, "POLL", 0.01)

    def start(*arguments):
        given = ("--sweep=learning_rate=0.25,0.5;seed=0..2", f"--logdir={tmp_path / 'sweep'}", *arguments)
        return launched(lambda run: pytest.fail("must not run"), *given)

    return start


def lines(path):
    return sorted(path.read_text().splitlines()) if path.exists() else []


ALL = sorted(f"{rate} {seed}" for rate in (0.25, 0.5) for seed in range(3))


def test_each_setting_is_run_once_and_the_table_has_means_and_intervals(sweeping, tmp_path):
    status, out, err = sweeping("--jobs=3")
    assert (status, err, lines(tmp_path / "sweep" / "ends")) == (0, "", ALL)
    table = [line.split() for line in out.splitlines()[-4:-1]]
    assert table == [
        ["learning_rate", "runs", "loss"],
        ["0.25", "3", "1.25", "±", "2.5"],  # t(0.975, 2) = 4.303, times 1 / sqrt(3)
        ["0.5", "3", "1.5", "±", "2.5"],
    ]
    assert "6 of 6 runs are done" in out


def test_a_failed_run_is_named_and_stops_no_other_and_is_done_again(sweeping, tmp_path):
    (tmp_path / "sweep" / "fails").touch()
    status, out, err = sweeping()
    assert (status, lines(tmp_path / "sweep" / "ends"), "3 of 6 runs" in out) == (1, ALL[:3], True)
    assert err.count("learning_rate=0.5,seed=") == 6  # three lines, each with the place of its output
    assert err.count("ValueError: out of luck") == 3
    (tmp_path / "sweep" / "fails").unlink()
    status, out, _ = sweeping()
    assert (status, lines(tmp_path / "sweep" / "ends"), out.count("finished already")) == (0, ALL, 3)


def test_a_run_that_another_process_does_is_waited_for(sweeping, tmp_path):
    path = tmp_path / "sweep" / "learning_rate=0.25,seed=0"
    path.mkdir()
    (tmp_path / "sweep" / "slow").write_text("0.5")
    with subprocess.Popen([sys.executable, "-c", STAND_IN, str(path), "0.25", "0"]):  # a sweep's that was killed
        while not (tmp_path / "sweep" / "starts").exists():
            time.sleep(0.01)
        (tmp_path / "sweep" / "slow").unlink()
        assert sweeping()[0] == 0
    assert lines(tmp_path / "sweep" / "starts") == ALL


def test_one_sweep_at_a_time(sweeping, tmp_path, monkeypatch):
    monkeypatch.setattr(run_state, "_ATTEMPTS", 1)
    lock = run_state.hold(tmp_path / "sweep")
    status, _, err = sweeping()
    run_state.release(lock)
    assert (status, "another process" in err) == (1, True)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_runs_too(sweeping, tmp_path, monkeypatch, number, status):
    monkeypatch.setattr(sweep, "GRACE", 0.05)
    (tmp_path / "sweep" / "slow").write_text("60")
    begun = []

    def start(path, setting, real=sweep._start):
        begun.append(real(path, setting))
        if len(begun) == 2:
            os.kill(os.getpid(), number)
        return begun[-1]

    monkeypatch.setattr(sweep, "_start", start)
    found, _, err = sweeping("--jobs=3")
    assert (found, "The same command with the same --logdir goes on" in err) == (status, True)
    assert [process.returncode for process in begun] == [-signal.SIGTERM] * len(begun)


def test_what_is_missing_is_printed_as_commands(launched, monkeypatch, tmp_path):
    with_key_flags(monkeypatch)
    given = ["--nodeterministic", "--optimiser=two words", "--verbose=0"]
    folder = tmp_path / "s" / "learning_rate=1,seed=0"
    assert launched(lambda run: {}, f"--logdir={folder}", "--learning_rate=1", "--seed=0", *given)[0] == 0
    arguments = ["--sweep=learning_rate=1,2;seed=0,1", f"--logdir={tmp_path / 's'}", "--print_commands", *given]
    monkeypatch.setattr(sys, "orig_argv", ["python", "-m", "experiments.line", *arguments])
    status, out, err = launched(None, *arguments)
    assert (status, err, len(out.splitlines())) == (0, "", 3)
    assert shlex.split(out.splitlines()[0]) == [
        *(sys.executable, "-m", "experiments.line", *given, "--learning_rate=1", "--seed=1"),
        *("--hparams=learning_rate,seed", f"--logdir={tmp_path}/s/learning_rate=1,seed=1"),
    ]
    (folder / "result.json").unlink()
    monkeypatch.setattr(sys, "orig_argv", ["python", "-m", "experiments.line", *arguments])
    assert launched(None, *arguments)[1].startswith(f"rm -r {folder} && {sys.executable} -m experiments.line ")
    status, _, err = launched(None, *arguments[:-2], "--optimiser=three", "--verbose=0")
    assert (status, "There: --optimiser=two words, here: three" in err, err) == (1, True, err)


def test_with_checkpoints_a_run_goes_on_in_its_directory_and_without_it_begins_anew(sweeping, tmp_path):
    for arguments, kept in (([], False), (["--checkpoint_every=1 epoch"], True)):
        path = tmp_path / "sweep" / "learning_rate=0.25,seed=0"
        path.mkdir(exist_ok=True)
        (path / "result.json").unlink(missing_ok=True)
        (path / "left").touch()
        assert sweeping(*arguments)[0] == 0
        assert (path / "left").exists() == kept


# --- TensorBoard -------------------------------------------------------------------------------------------------------------


def test_tensorboard_s_table_has_the_runs(tmp_path):
    hparams.write(tmp_path / "a", {"learning_rate": 0.25, "optimizer": "adam"}, {"loss": 0.5})
    hparams.write(tmp_path / "b", {"learning_rate": 0.5, "optimizer": "sgd"}, {"loss": 0.75})
    events = plugin_event_multiplexer.EventMultiplexer()
    events.AddRunsFromDirectory(str(tmp_path))
    events.Reload()
    provider = data_provider.MultiplexerDataProvider(events, str(tmp_path))
    plugin = backend_context.Context(base_plugin.TBContext(data_provider=provider, logdir=str(tmp_path)))
    request, asked = context.RequestContext(), api_pb2.ListSessionGroupsRequest(start_index=0, slice_size=9)
    asked.allowed_statuses.append(api_pb2.STATUS_SUCCESS)
    asked.col_params.add().metric.tag = "loss"
    groups = list_session_groups.Handler(request, plugin, "", asked).run().session_groups
    found = {
        (group.hparams["learning_rate"].number_value, group.hparams["optimizer"].string_value): group.metric_values[0].value
        for group in groups
    }
    assert found == {(0.25, "adam"): 0.5, (0.5, "sgd"): 0.75}


def test_a_run_writes_its_line(launched, tmp_path, monkeypatch):
    written = []
    monkeypatch.setattr(hparams, "write", lambda *arguments: written.append(arguments))
    result = {"loss": 1.5, "passed": True, "fit_seconds": 3.0, "deep": {"accuracy": 0.5, "all": [1, 2]}, "name": "x"}
    path = tmp_path / "run"
    launched(lambda run: result, f"--logdir={path}", "--nodeterministic", "--seed=3", "--hparams=seed,learning_rate")
    assert written == [(path, {"seed": 3, "learning_rate": 0.1}, {"loss": 1.5, "deep.accuracy": 0.5})]


# --- processes -------------------------------------------------------------------------------------------------------------

TINY = """
import keras, numpy as np, time
from absl import flags
import fitcore
from fitcore.command_line import launch

RATE = flags.DEFINE_float("rate", 0.1, "Of SGD.")


def main(run):
    x = np.ones((8, 2), "float32")
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(RATE.value), "mse")
    history = fitcore.fit(model, x, x[:, :1], epochs=2, verbose=0, callbacks=[run.history("fit")])
    with open("ends", "a") as file:
        file.write(f"{RATE.value}\\n")
    return {"loss": history.history["loss"][-1]}


if __name__ == "__main__":
    launch.run(main)
"""


@pytest.mark.slow
def test_a_sweep_that_was_killed_is_completed_and_does_nothing_twice(tmp_path):
    (tmp_path / "tiny.py").write_text(TINY)
    command = [sys.executable, "tiny.py", "--sweep=rate=0.25,0.5", "--logdir=sweep"]
    first = subprocess.Popen(command, cwd=tmp_path, start_new_session=True)
    while len(list((tmp_path / "sweep").glob("*/result.json"))) < 1:
        assert first.poll() is None
        time.sleep(0.05)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    assert not (tmp_path / "sweep" / "rate=0.5" / "result.json").exists()
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "rate=0.25: finished already" in done.stdout
    assert "2 of 2 runs are done" in done.stdout
    assert lines(tmp_path / "ends") == ["0.25", "0.5"]
    assert all(record.state == "finished" for record in records.find(tmp_path / "sweep"))
    assert list((tmp_path / "sweep" / "rate=0.5").glob("events.out.tfevents.*"))
