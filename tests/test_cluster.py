"""python -m fitcore.cluster: how processes are started, heard and ended; the workers here are scripts without TensorFlow."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fitcore.cluster import printed, role

WORKER = """
import json, os, pathlib, signal, sys, time
index = json.loads(os.environ["TF_CONFIG"])["task"]["index"]
here = pathlib.Path(sys.argv[1])
def beat():
    pathlib.Path(os.environ["FITCORE_BEAT"]).touch()
def note(name):
    (here / f"{name}{index}").write_text(str(os.getpid()))
"""


def start(tmp_path: Path, body: str, *options: str, workers: int = 2) -> subprocess.Popen[str]:
    script = tmp_path / "worker.py"
    script.write_text(WORKER + body)
    command = [sys.executable, "-m", "fitcore.cluster", f"--workers={workers}", *options, str(script), str(tmp_path), "--a=b c"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def done(tmp_path: Path, body: str, *options: str, workers: int = 2) -> tuple[int, str, str]:
    process = start(tmp_path, body, *options, workers=workers)
    out, err = process.communicate(timeout=30)
    return process.returncode, out, err


def until(path: Path) -> None:
    end = time.monotonic() + 20
    while not path.exists():
        assert time.monotonic() < end, f"{path} never came"
        time.sleep(0.02)


def is_running(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def test_each_worker_gets_its_place_and_its_output_a_prefix(tmp_path: Path) -> None:
    body = """
print(os.environ["TF_CONFIG"]); print(sys.argv[2:]); print("no newline", end="")
print("error", file=sys.stderr)
"""
    status, out, err = done(tmp_path, body, workers=3)
    assert status == 0
    clusters = set()
    for i in range(3):
        config = json.loads(re.search(rf"\[worker {i}\] (\{{.*)", out)[1])
        assert config["task"] == {"type": "worker", "index": i}
        clusters.add(tuple(config["cluster"]["worker"]))
        assert f"[worker {i}] ['--a=b c']\n" in out
        assert f"[worker {i}] no newline\n" in out
        assert f"[worker {i}] error\n" in err
    (hosts,) = clusters
    assert len(set(hosts)) == 3


@pytest.mark.parametrize(
    ("end", "says", "expected"),
    [("os.kill(os.getpid(), 9)", "was killed by SIGKILL", 137), ("sys.exit(3)", "failed with exit status 3", 3)],
)
def test_when_one_fails_all_end(tmp_path: Path, end: str, says: str, expected: int) -> None:
    body = f"""
note("pid")
if index == 1:
    while not (here / "pid0").exists(): time.sleep(0.01)
    {end}
time.sleep(60)
"""
    began = time.monotonic()
    status, _, err = done(tmp_path, body)
    assert status == expected
    assert re.search(rf"fitcore.cluster: worker 1 \(pid \d+\) {says} after \d+\.\d s\.", err)
    assert time.monotonic() - began < 4
    assert not is_running(int((tmp_path / "pid0").read_text()))


def test_one_that_will_not_end_is_killed(tmp_path: Path) -> None:
    body = """
if index == 1:
    while not (here / "deaf0").exists(): time.sleep(0.01)
    sys.exit(1)
signal.signal(signal.SIGTERM, signal.SIG_IGN)
note("deaf")
time.sleep(60)
"""
    began = time.monotonic()
    status, _, err = done(tmp_path, body)
    assert status == 1
    assert re.search(r"killing worker 0 \(pid \d+\)", err)
    assert 5 <= time.monotonic() - began < 10
    assert not is_running(int((tmp_path / "deaf0").read_text()))


def test_the_one_that_was_killed_is_named_not_those_that_lost_it(tmp_path: Path) -> None:
    body = """
note("pid")
while not all((here / f"pid{i}").exists() for i in range(2)): time.sleep(0.01)
if index == 1: os.kill(os.getpid(), 9)
while is_there(int((here / "pid1").read_text())): pass
sys.exit(1)
""".replace("is_there", "(lambda pid: 'State:\\tZ' not in pathlib.Path(f'/proc/{pid}/status').read_text())")
    status, _, err = done(tmp_path, body)
    assert status == 137
    assert "worker 1" in err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_are_passed_on_once(tmp_path: Path, number: int) -> None:
    body = f"""
heard = []
signal.signal({int(number)}, lambda number, _: heard.append(number))
note("ready")
while not heard: time.sleep(0.01)
time.sleep(0.3)
print("heard", len(heard))
sys.exit(75)
"""
    process = start(tmp_path, body)
    for i in range(2):
        until(tmp_path / f"ready{i}")
    process.send_signal(number)
    out, err = process.communicate(timeout=20)
    assert process.returncode == 75
    assert [line for line in out.splitlines() if "heard" in line] == ["[worker 0] heard 1", "[worker 1] heard 1"] or out.count(
        "heard 1"
    ) == 2
    assert "has saved itself and left (exit status 75)" in err


def test_a_second_signal_kills(tmp_path: Path) -> None:
    body = """
signal.signal(signal.SIGINT, lambda *_: note("heard"))
note("ready")
while True: time.sleep(0.05)
"""
    process = start(tmp_path, body)
    until(tmp_path / "ready0")
    until(tmp_path / "ready1")
    process.send_signal(signal.SIGINT)
    until(tmp_path / "heard0")
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=5)
    assert process.returncode == 137
    assert "killing worker 0" in err


def test_workers_end_with_the_launcher_even_if_that_is_killed(tmp_path: Path) -> None:
    process = start(tmp_path, 'note("pid")\ntime.sleep(60)')
    pids = []
    for i in range(2):
        until(tmp_path / f"pid{i}")
        pids.append(int((tmp_path / f"pid{i}").read_text()))
    process.kill()
    process.communicate()
    end = time.monotonic() + 5
    while any(map(is_running, pids)) and time.monotonic() < end:
        time.sleep(0.02)
    assert not any(map(is_running, pids))


def test_a_hung_worker_ends_the_job(tmp_path: Path) -> None:
    """One stops giving signs of life, the other goes on; while both give them, more time than that may pass."""
    body = """
end = time.monotonic() + 1.5
while index == 0 or time.monotonic() < end:
    beat(); time.sleep(0.05)
time.sleep(60)
"""
    began = time.monotonic()
    status, _, err = done(tmp_path, body, "--timeout=1")
    assert status == 124
    assert re.search(r"no sign of life from .*worker 1 \(pid \d+\) for 1\.\d s: --timeout=1\. One of them hangs\.", err)
    assert 2.5 <= time.monotonic() - began < 6


def test_restarts(tmp_path: Path) -> None:
    """The third attempt ends well; each has ports of its own."""
    body = """
attempts = len(list(here.glob("attempt*")))
if index == 0: print("attempt", attempts)
if index == 1:
    (here / f"attempt{attempts}").touch()
    if attempts < 2: os.kill(os.getpid(), 9)
else:
    while not (here / "attempt2").exists(): time.sleep(0.01)
"""
    assert done(tmp_path, body, "--restarts=2")[0] == 0
    for attempt in tmp_path.glob("attempt*"):
        attempt.unlink()
    status, _, err = done(tmp_path, body, "--restarts=1")
    assert status == 137
    assert err.count("was killed by SIGKILL") == 2
    assert err.count("starting all 2 workers again") == 1


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--workers=0", "x.py"], "--workers must be at least 1"),
        (["--workers=2"], "name a module"),
        (["--workers=2", "--timeout=-1", "x.py"], "must not be negative"),
        (["--workers=2", "--hosts=a,b", "x.py"], "--hosts goes with --print"),
        (["--workers=2", "--print", "--hosts=a", "x.py"], "as many hosts as there are workers"),
    ],
)
def test_wrong_arguments(arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    from fitcore.cluster.__main__ import main

    with pytest.raises(SystemExit) as exit:
        main(arguments)
    assert exit.value.code == 2
    assert says in capsys.readouterr().err


# --- what is printed --------------------------------------------------------------------------------------------------------

SHOW = "import json, os, sys; print(json.dumps([json.loads(os.environ['TF_CONFIG']), sys.argv[1:]]))"


@pytest.fixture
def texts(tmp_path: Path) -> dict[str, str]:
    """By kind, what --print says to run on two hosts; the command shows its environment and its arguments."""
    (tmp_path / "show.py").write_text(SHOW)
    text = printed.printed([sys.executable, str(tmp_path / "show.py"), "--a=it's b"], 2, [])
    hand, slurm, kubernetes = re.split(r"\n# (?:Slurm|Kubernetes):.*\n", text)
    return {"hand": hand, "slurm": slurm, "kubernetes": kubernetes}


def shown(output: str, hosts: list[str]) -> None:
    for i, line in enumerate(output.splitlines()):
        config, arguments = json.loads(line)
        assert config == {"cluster": {"worker": hosts}, "task": {"type": "worker", "index": i}}
        assert arguments == ["--a=it's b"]
    assert i == 1


def test_by_hand(texts: dict[str, str]) -> None:
    shown(subprocess.check_output(["bash", "-c", texts["hand"]], text=True), ["HOST0:2222", "HOST1:2222"])


def test_slurm(texts: dict[str, str], tmp_path: Path) -> None:
    """With stand-ins for Slurm's commands."""
    commands = {
        "scontrol": "echo node7; echo node8",
        "srun": 'shift; for SLURM_PROCID in 0 1; do export SLURM_PROCID; "$@"; done',
    }
    for name, body in commands.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{body}\n")
        (tmp_path / name).chmod(0o755)
    path = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_NODELIST": "node[7-8]"}
    shown(subprocess.check_output(["bash", "-c", texts["slurm"]], env=path, text=True), ["node7:2222", "node8:2222"])


def test_kubernetes(texts: dict[str, str]) -> None:
    command = json.loads(re.search(r"command: (.*)", texts["kubernetes"])[1])
    assert "completions: 2\n" in texts["kubernetes"]
    output = "".join(
        subprocess.check_output(command, env={**os.environ, "JOB_COMPLETION_INDEX": str(i)}, text=True) for i in range(2)
    )
    shown(output, ["fitcore-0.fitcore:2222", "fitcore-1.fitcore:2222"])


# --- which one it is --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "index"),
    [
        (None, 0),
        ({"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker", "index": 0}}, 0),
        ({"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker", "index": 1}}, 1),
        ({"cluster": {"chief": ["a:1"], "worker": ["b:1"]}, "task": {"type": "chief", "index": 0}}, 0),
        ({"cluster": {"chief": ["a:1"], "worker": ["b:1"]}, "task": {"type": "worker", "index": 0}}, 1),
    ],
)
def test_the_chief_is_worker_0(config: object, index: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TF_CONFIG", raising=False)
    if config is not None:
        monkeypatch.setenv("TF_CONFIG", json.dumps(config))
    assert (role.index(), role.is_chief()) == (index, index == 0)
