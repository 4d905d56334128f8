"""python -m fitcore.runs: the state of runs, a list of them, and two held against each other."""

import json
import os
import shutil
import subprocess
import sys
import time

import keras
import nudged
import pytest
from absl import flags

from fitcore import runs
from fitcore.command_line import curves, records, run_state

SLOPE = flags.DEFINE_float("slope", 0.5, "A flag of the experiments here.")


@pytest.fixture
def run_in(tmp_path, launched):
    """Does a run of `main`, by default of one small fit, in tmp_path/FOLDER."""

    def fit(run, nudge_after=0):
        keras.utils.clear_session()  # names count from zero, as in a process of its own
        keras.utils.set_random_seed(run.seed)
        nudged.fit("fit", [run.history("fit")], nudge_after)
        return {"score": SLOPE.value, "passed": True}

    def start(folder, *arguments, main=fit, **given):
        launched(lambda run: main(run, **given), f"--logdir={tmp_path / folder}", "--nodeterministic", *arguments)
        return tmp_path / folder

    return start


def status_of(capsys, *arguments):
    """(exit status, standard output) of the command."""
    capsys.readouterr()
    status = runs.main([*map(str, arguments)])
    return status, capsys.readouterr().out


def test_a_run_is_running_until_it_is_finished_or_failed_or_killed(tmp_path, run_in, monkeypatch):
    seen = []

    def main(run, ends=None):
        seen.append(run_state.state_of(run.path))
        if ends is not None:
            raise ends
        return {}

    assert run_state.state_of(run_in("fine", main=main)) == "finished"
    assert run_state.state_of(run_in("interrupted", main=main, ends=KeyboardInterrupt())) == "killed"
    assert run_state.state_of(run_in("left", main=main, ends=SystemExit("out of luck"))) == "failed"
    with pytest.raises(ZeroDivisionError):
        run_in("broken", main=main, ends=ZeroDivisionError("by 0"))
    monkeypatch.setattr(run_state, "hold", lambda run: os.listdir("/none"))  # as where there are no locks
    with pytest.warns(UserWarning, match="can't be locked"):
        assert run_state.state_of(run_in("unlocked", main=main)) == "finished"
    assert seen == ["running"] * 4 + ["killed"]
    found = {os.path.basename(run["run"]): run for run in runs.listed(tmp_path)}
    assert {name: run["state"] for name, run in found.items() if name != "unlocked"} == {
        "fine": "finished", "interrupted": "killed", "left": "failed", "broken": "failed",
    }  # fmt: skip
    assert [found[name].get("error") for name in ("fine", "left", "broken")] == [None, "out of luck", "ZeroDivisionError: by 0"]
    assert all(0 <= run["seconds"] < 10 for run in found.values())


def test_the_lock_ends_with_its_process_whatever_that_has_forked(tmp_path):
    descriptor = run_state.hold(tmp_path)
    assert run_state.is_held(tmp_path)
    (source, sink), (started, starts) = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        os.close(sink)
        os.write(starts, b"1")
        os.read(source, 1)
        os._exit(0)
    os.read(started, 1)
    os.close(descriptor)  # as the process's end does
    held = run_state.is_held(tmp_path)
    os.close(sink)
    os.waitpid(child, 0)
    assert not held


def test_one_process_does_a_run(tmp_path, monkeypatch):
    monkeypatch.setattr(run_state, "_ATTEMPTS", 2)
    descriptor = run_state.hold(tmp_path)
    with pytest.raises(run_state.RunInUseError):
        run_state.hold(tmp_path)
    run_state.release(descriptor)
    run_state.release(run_state.hold(tmp_path))


def test_the_list_has_the_flags_that_differ_and_the_metrics(tmp_path, run_in, capsys):
    run_in("a", "--slope=0.25")
    run_in("below/b", "--slope=0.75", "--seed=3")
    shutil.copytree(tmp_path / "a", tmp_path / "killed")
    for name in ("result.json", "status.json"):
        (tmp_path / "killed" / name).unlink()
    status, out = status_of(capsys, tmp_path, "--json")
    first, second, killed = json.loads(out)
    assert (status, first["flags"], second["flags"]) == (0, {"slope": "0.25", "seed": "0"}, {"slope": "0.75", "seed": "3"})
    assert (first["metrics"], killed["state"], killed["metrics"].keys()) == ({"score": 0.25}, "killed", {"loss"})
    lines = status_of(capsys, tmp_path)[1].splitlines()
    assert lines[0].split() == ["run", "state", "seed", "slope", "seconds", "metrics"]
    assert lines[2].split()[:4] == ["below/b", "finished", "3", "0.75"]
    assert lines[2].endswith("score 0.75")


def test_equal_runs_are_identical(run_in, capsys):
    status, out = status_of(capsys, "compare", run_in("a"), run_in("b"))
    assert (status, out.splitlines()[-1]) == (0, "identical")


def test_the_first_step_and_variable_that_differ_are_named(run_in, capsys):
    one, other = run_in("a", "--slope=0.25"), run_in("b", "--slope=0.5", nudge_after=7)
    status, out = status_of(capsys, "compare", one, other, "--json")
    found = json.loads(out)
    assert (status, found["identical"], found["flags"]) == (1, False, {"slope": ["0.25", "0.5"]})
    assert found["metrics"] == {"score": [0.25, 0.5]}
    fit, result = found["first"]
    assert (fit["place"], fit["step"], fit["variable"], fit["epoch"]) == ("fit", 7, "fit_second/kernel", 2)
    assert (result["place"], result["says"]) == ("result.json", "score, 0.25 (a) and 0.5 (b)")
    assert found["surroundings"] == {"fit.hooks[0]": [None, "Nudge"]}
    words = status_of(capsys, "compare", one, other)[1]
    assert f"fit: step 7, step/loss {fit['says'].split()[3]} (a) and " in words
    assert words.endswith("not identical\n")


def test_other_data_and_versions_are_named(tmp_path, run_in, capsys):
    one, other = run_in("a"), run_in("b")
    environment = json.loads((other / "environment.json").read_text())
    environment["versions"]["keras"] = "3.0.0"
    (other / "environment.json").write_text(json.dumps(environment))
    path = other / "curves" / "fit.jsonl"
    first, *rest = [json.loads(line) for line in path.read_text().splitlines()]
    first["fingerprint"]["data"][0]["sha256"] = "other"
    path.write_text("".join(json.dumps(line) + "\n" for line in (first, *rest)))
    found = json.loads(status_of(capsys, "compare", one, other, "--json")[1])
    assert {place: pair[1] for place, pair in found["surroundings"].items()} == {
        "versions.keras": "3.0.0",
        "fit.data[0].sha256": "other",
    }


def test_a_killed_run_is_compared_by_its_curves(run_in, capsys, monkeypatch):
    monkeypatch.setattr(curves, "EPOCH_SECONDS", 0.0)
    one, other = run_in("a"), run_in("b")
    for name in ("result.json", "status.json", "history.json"):
        (other / name).unlink()
    path = other / "curves" / "fit.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:2]))  # two of four epochs, of three steps each
    found = json.loads(status_of(capsys, "compare", one, other, "--json")[1])
    assert found["states"] == ["finished", "killed"]
    assert found["first"][0]["step"] == 6
    assert "nothing (b)" in found["first"][0]["says"]


def test_show_tells_of_one_run(run_in, capsys):
    status, out = status_of(capsys, "show", run_in("a", "--slope=0.25"))
    found = json.loads(out)
    assert (status, found["state"], found["flags"]["slope"], found["result"]["score"]) == (0, "finished", "0.25", 0.25)
    assert (found["fits"]["fit"]["epochs"], found["fits"]["fit"]["steps"]) == (4, 12)


@pytest.mark.parametrize("arguments", [["show", "{}"], ["compare", "{}", "{}"], ["{}/none"]])
def test_what_is_no_run_is_named(tmp_path, capsys, arguments):
    assert runs.main([each.format(tmp_path) for each in arguments]) == 2
    assert str(tmp_path) in capsys.readouterr().err


def test_a_thousand_runs_are_read_in_two_seconds(tmp_path, run_in):
    template = run_in("0/0")
    for i in range(1, 1000):
        shutil.copytree(template, tmp_path / str(i % 10) / str(i))
    start = time.process_time()  # not a clock on the wall: others may keep this machine busy
    found = runs.listed(tmp_path)
    assert (len(found), found[0]["metrics"]) == (1000, {"score": 0.5})
    assert time.process_time() - start < 2


def test_the_command_loads_no_tensorflow(tmp_path, run_in):
    run_in("runs/a")
    for module in ("tensorflow", "keras"):
        (tmp_path / f"{module}.py").write_text("raise AssertionError('loaded')")
    root = os.path.dirname(os.path.dirname(records.__file__)).removesuffix("fitcore")
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{root}"}
    command = [sys.executable, "-m", "fitcore.runs"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[1].split()[:2] == ["a", "finished"]
