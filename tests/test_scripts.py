"""Unmodified Keras scripts under `python -m fitcore`: what they do under `python`, and what the command adds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

SCRIPTS = Path(__file__).parent / "scripts"
ENVIRONMENT = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "2"}


def run(*arguments: object, check: bool = True) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, env=ENVIRONMENT, check=check, capture_output=True, text=True)


@pytest.mark.slow
def test_the_scripts_of_the_five_answers_end_alike(tmp_path: Path) -> None:
    """Weights to the last bit, or, for the three that don't run as written on Keras 3, the error."""
    plain, routed = tmp_path / "plain.json", tmp_path / "routed.json"
    with ThreadPoolExecutor() as pool:
        unpatched = pool.submit(run, SCRIPTS / "run_all.py", plain)
        account = run("-m", "fitcore", SCRIPTS / "run_all.py", routed).stderr
        unpatched.result()
    expected, ends = json.loads(plain.read_text()), json.loads(routed.read_text())
    assert ends == expected
    assert sorted(ends) == [f"{answer}{example}" for answer in "abcde" for example in (1, 2, 3)]
    assert {name for name, end in ends.items() if ": " in end} == {"b2", "b3", "c3"}  # TypeError or ValueError
    assert "310 calls of train_on_batch" in account  # d1 and d3: 5 epochs of 31 batches each
    assert "Keras ran" not in account


SCRIPT = """
import sys
import keras, numpy as np
import beside  # a module in the script's own folder

class OwnLoop(keras.Sequential):
    def make_train_function(self, force=False):
        return super().make_train_function(force)

class OwnStep(keras.Sequential):
    def train_step(self, batch):
        super().train_step(batch)
        return {"mine": 1.5}

class OwnMetrics(keras.Sequential):
    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        return {"mine": 2.5}

x = np.arange(12.0).reshape(6, 2)
for kind in (keras.Sequential, keras.Sequential, OwnStep, OwnMetrics, OwnLoop):
    model = kind([keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    for _ in range(2):
        model.fit(x, x[:, :1], batch_size=2, verbose=0)
print(__name__, sys.argv[1:], beside.HERE, sys.argv[0] == __file__)
sys.exit(int(sys.argv[-1]))
"""


def test_the_command(tmp_path: Path) -> None:
    script, logs = tmp_path / "script.py", tmp_path / "logs"
    script.write_text(SCRIPT)
    (tmp_path / "beside.py").write_text("HERE = 'beside'")
    done = run("-m", "fitcore", "--logdir", logs, script, "--logdir", "mine", "3", check=False)
    assert done.returncode == 3
    assert done.stdout == "__main__ ['--logdir', 'mine', '3'] beside True\n"

    account = done.stderr.splitlines()[-2:]
    assert account[0].startswith("fitcore ran 8 fits of 24 steps in ")
    assert (
        account[1]
        == "Keras ran 2 calls of fit: OwnLoop overrides make_train_function, and with it the loop that fitcore would run."
    )
    assert done.stderr.count("UserWarning: Keras runs `OwnLoop.fit` itself") == 1

    names = ["1-sequential", "2-sequential_1", "3-own_step", "4-own_metrics"]
    assert sorted(path.name for path in logs.iterdir()) == names
    events = [EventAccumulator(str(logs / name / "train")).Reload() for name in names]
    for accumulator in (*events[:2], events[3]):
        assert [event.step for event in accumulator.Tensors("step/loss")] == [1, 2, 3, 4, 5, 6]
    for accumulator in events[2:]:
        assert len(accumulator.Tensors("epoch_mine")) == 2


def test_the_command_shows_a_script_s_error(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text("import keras\nkeras.Sequential([keras.layers.Dense(1)]).fit([[1.0]], [[1.0]])")
    done = run("-m", "fitcore", script, check=False)
    assert done.returncode == 1
    assert "ValueError: You must call `compile()`" in done.stderr
    assert "fitcore ran 1 fits of 0 steps" in done.stderr
