"""Under MultiWorkerMirroredStrategy, in two processes: what they decide together, and what happens when one of them is lost.
That the bits are Keras's is in benchmarks/parity/cluster.py."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import in_cluster
import numpy as np
import pytest

import fitcore

pytestmark = pytest.mark.slow

KILLS = int(os.environ.get("KILLS", 3))  # 10 take some four minutes
SAID_WITHIN = 1.0  # seconds after the kill, as `python -m fitcore.cluster --help` says
ENDED_WITHIN = 7.0


def start(task: str, folder: Path, *arguments: str, options: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    folder.mkdir(exist_ok=True)
    script = [str(Path(__file__).parent / "in_cluster.py"), task, str(folder), *arguments]
    command = [sys.executable, "-m", "fitcore.cluster", "--workers=2", *options, *script]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def ends(folder: Path) -> list[Any]:
    """What both workers ended in."""
    return [json.loads((folder / f"end{i}.json").read_text()) for i in range(2)]


def undisturbed(found: dict[str, Any]) -> dict[str, Any]:
    """Without what another number of processes changes: how many calls there were, and how long they took."""
    return {name: value for name, value in found.items() if name != "account"}


def test_they_decide_together(tmp_path: Path) -> None:
    process = start("together", tmp_path)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    chief, other = ends(tmp_path)
    assert chief["one stops"]["stop"] == ["another worker", 10]
    assert other["one stops"]["stop"] == ["OneStops", 10]
    for name in ("one stops", "rule", "records", "schedule"):
        for what in ("shared", "history", "steps"):
            assert chief[name][what] == other[name][what], name
    assert chief["rule"]["stop"] == other["rule"]["stop"]
    assert chief["rule"]["stop"][1] == 1
    account = chief["records"]["account"]
    assert account["steps"] == 210
    assert account["calls"] < 100  # an epoch's steps take one call, as soon as it is known how long they take
    assert chief["fallbacks"] == 0
    assert chief["evaluate"] == other["evaluate"]
    files = (tmp_path / "events").rglob("events.out.tfevents.*")
    assert len({file.name.split(".")[-3] for file in files}) == 1  # one process's, the chief's


def test_records_are_the_whole_batchs(tmp_path: Path) -> None:
    """As one process records them; without dropout and batch normalization, which a replica has for itself."""
    process = start("records", tmp_path)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    x, y = in_cluster.whole_batches()
    model = in_cluster.linear_under(None)
    history = fitcore.fit(model, x, y, batch_size=in_cluster.BATCH, shuffle=False, verbose=0, record=in_cluster.RECORD)
    for found in ends(tmp_path):
        for name in in_cluster.RECORD:
            np.testing.assert_allclose(found[name], history.steps[name], rtol=1e-5)


def test_noise_is_the_whole_batchs(tmp_path: Path) -> None:
    """Per example as one process measures it; the workers' gradients are the halves of a batch. Neither changes the weights."""
    process = start("noise", tmp_path)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    x, y = in_cluster.whole_batches()
    alone = {}
    for name, measured in (("examples", in_cluster.NOISE["examples"]), ("replicas", fitcore.GradientNoise("split", splits=2))):
        model = in_cluster.linear_under(None)
        history = fitcore.fit(model, x, y, batch_size=in_cluster.BATCH, shuffle=False, verbose=0, noise=measured)
        alone[name] = history.noise
    for found in ends(tmp_path):
        for name, curves in alone.items():
            scale = curves.batch_grad_norm_sq.max()  # |G|^2 is a difference
            for curve in in_cluster.NOISE_CURVES:
                np.testing.assert_allclose(found[name][curve], getattr(curves, curve), rtol=1e-6, atol=1e-6 * scale)
            assert found[name]["weights"] == found["none"]["weights"]
        assert not np.allclose(found["examples"]["trace"], found["replicas"]["trace"], rtol=0.1)


def test_a_worker_killed_again_and_again(tmp_path: Path) -> None:
    """Each time it is said, in time; the job starts again, and ends in the bits of one that nobody disturbed."""
    calm = start("survives", tmp_path / "calm", "0")
    output, _ = calm.communicate(timeout=300)
    assert calm.returncode == 0, output
    process = start("survives", tmp_path / "killed", str(KILLS), options=(f"--restarts={KILLS}",))
    said, again = [], []
    assert process.stdout is not None
    for line in process.stdout:
        if re.search(r"worker \d \(pid \d+\) was killed by SIGKILL", line):
            said.append(time.time())
        elif "starting all 2 workers again" in line:
            again.append(time.time())
    assert process.wait() == 0
    kills = [float((tmp_path / "killed" / f"kill-{i}").read_text()) for i in range(KILLS)]
    assert len(said) == len(again) == KILLS
    print("seconds from the kill to its message:", [round(a - b, 2) for a, b in zip(said, kills)])
    print("seconds from the kill to the end of all workers:", [round(a - b, 2) for a, b in zip(again, kills)])
    assert max(a - b for a, b in zip(said, kills)) < SAID_WITHIN
    assert max(a - b for a, b in zip(again, kills)) < ENDED_WITHIN
    expected = list(map(undisturbed, ends(tmp_path / "calm")))
    assert list(map(undisturbed, ends(tmp_path / "killed"))) == expected
    assert expected[0]["shared"] == expected[1]["shared"]
    assert expected[0]["state"] != expected[1]["state"]  # batch normalization's averages are each worker's own


def test_a_hung_worker_ends_the_job(tmp_path: Path) -> None:
    process = start("hangs", tmp_path, options=("--timeout=20",))
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 124, output
    assert "no sign of life from worker 0" in output
    assert "One of them hangs." in output


def test_a_signal_lets_all_save_at_one_step(tmp_path: Path) -> None:
    calm = start("preempted", tmp_path / "calm")
    output, _ = calm.communicate(timeout=300)
    assert calm.returncode == 0, output
    folder = tmp_path / "signalled"
    process = start("preempted", folder)
    end = time.monotonic() + 120
    while not all((folder / f"ready{i}").exists() for i in range(2)) and time.monotonic() < end:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=90)
    assert process.returncode == fitcore.checkpoint.PREEMPTED, output
    steps = {int(step) for step in re.findall(r"(?:saved|left) after step (\d+)", output)}
    assert len(steps) == 1, output
    process = start("preempted", folder)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    assert list(map(undisturbed, ends(folder))) == list(map(undisturbed, ends(tmp_path / "calm")))
