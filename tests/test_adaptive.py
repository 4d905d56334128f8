"""The experiment on settings that follow the gradient noise, made short."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest


@pytest.mark.slow
def test_adaptive(tmp_path: Path) -> None:
    pytest.importorskip("mlxtend")
    short = ["--seeds=2", "--target=2.0", "--few=64", "--most_epochs=3", f"--logdir={tmp_path / 'run'}"]
    done = subprocess.run([sys.executable, "-m", "experiments.adaptive", *short], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    for way in ("fixed", "norm test", "cabs", "noise rate"):
        examples, batch = np.array(result[way]["examples"]), np.array(result[way]["mean_batch"])
        assert (np.isfinite(examples) & (examples > batch) & (batch >= 4)).all(), way
    assert set(result["norm test"]["mean_batch"]) != {8.0}  # it grew
    for name in ("never", "low signal", "evidence", "early stopping"):
        assert max(result[f"stop: {name}"]["epochs"]) <= 3
        assert min(result[f"stop: {name}"]["excess"]) >= 0
