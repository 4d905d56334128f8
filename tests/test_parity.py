"""The parity command finds the two trainings identical, and would notice if they weren't. (CI runs the whole table.)"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import fitcore
from benchmarks import parity
from benchmarks.parity_cases import CASES
from benchmarks.parity_models import Case, Setup, mlp, regression

ROOT = Path(__file__).parent.parent

SOME = [
    "cnn_batchnorm_partial_batch",
    "attention_dropout",
    "embedding_sparse_gradients",
    "dict_inputs_and_outputs",
    "dataset_shorter_than_steps_per_epoch",
    "steps_per_execution",
    "moving_average",
    "early_stopping",
]


@pytest.mark.parametrize("name", SOME)
def test_identical(name: str) -> None:
    row = parity.compare(CASES[name])
    assert (row.verdict, row.identical) == ("yes", True)
    assert (row.weights, row.optimizer, row.history) == (0.0, 0.0, 0.0)


def one_ulp(model: keras.Model, **arguments: Any) -> Any:
    """The smallest change there is, in one weight."""
    history = fitcore.fit(model, **arguments)
    kernel = model.variables[0].numpy()
    kernel[0, 0] = np.nextafter(kernel[0, 0], np.float32(9.0))
    model.variables[0].assign(kernel)
    return history


def a_key_less(model: keras.Model, **arguments: Any) -> Any:
    history = fitcore.fit(model, **arguments)
    del history.history["loss"]
    return history


def one_epoch_rounded(model: keras.Model, **arguments: Any) -> Any:
    history = fitcore.fit(model, **arguments)
    history.history["loss"][0] = math.nextafter(history.history["loss"][0], 9.0)
    return history


def a_step_less(model: keras.Model, **arguments: Any) -> Any:
    """Its weights and History are right; the optimizer has missed a step."""
    history = fitcore.fit(model, **arguments)
    model.optimizer.iterations.assign_sub(1)
    return history


def zeros_of_the_other_sign(model: keras.Model, **arguments: Any) -> Any:
    """Equal as numbers, not as bytes."""
    history = fitcore.fit(model, **arguments)
    for variable in model.optimizer.variables:
        values = variable.numpy()
        if values.dtype == np.float32:
            variable.assign(np.where(values == 0, -values, values))
    return history


def failing(model: keras.Model, **arguments: Any) -> Any:
    raise ValueError("some words\nand more")


def small() -> Setup:
    """One feature is always zero: its weights' momenta stay zero."""
    data = regression(64)
    data["x"][:, 5] = 0.0
    return mlp(), data | {"epochs": 2}


@pytest.mark.parametrize(
    ("fit", "where"),
    [
        (one_ulp, (True, False, False)),
        (a_key_less, (False, False, True)),
        (one_epoch_rounded, (False, False, True)),
        (a_step_less, (False, True, False)),
        (zeros_of_the_other_sign, (False, False, False)),
    ],
)
def test_what_differs_is_noticed(fit: Callable[..., Any], where: tuple[bool, ...]) -> None:
    row = parity.compare(Case("small", small), fit)
    assert (row.verdict, row.identical) == ("NO", False)
    differences = [row.weights, row.optimizer, row.history]
    assert [value is not None and value > 0 for value in differences] == [*where]


def test_a_case_that_proves_nothing_is_not_counted() -> None:
    """What Keras doesn't repeat, and what fails."""
    seeds = iter(range(9))

    def unrepeatable() -> Setup:
        keras.utils.set_random_seed(next(seeds))
        return small()

    row = parity.compare(Case("unrepeatable", unrepeatable))
    assert (row.verdict, row.identical) == ("Keras not deterministic", False)
    row = parity.compare(Case("small", small), failing)
    assert (row.verdict, row.identical, row.weights) == ("ValueError: some words", False, None)


def test_there_are_enough_cases() -> None:
    assert len(CASES) >= 12
    for name, case in CASES.items():
        assert case.name == name
    optimizers = {type(case.build()[0].optimizer).__name__ for name, case in CASES.items() if name != "mixed_float16"}
    assert len(optimizers) >= 5


def test_the_command(tmp_path: Path) -> None:
    """Its last line, its exit status, and the JSON; a fit that is wrong is seen from outside too."""
    command = [
        sys.executable,
        "-m",
        "benchmarks.parity",
        "--case=shuffle_off",
        "--case=initial_epoch",
        f"--json={tmp_path}/r.json",
    ]
    environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines[-3:]] == ["shuffle_off", "initial_epoch", "parity"]
    assert lines[-1] == "parity 2/2 bit-identical"
    assert lines[0].startswith(f"Keras {keras.__version__}, TensorFlow ")
    written = json.loads((tmp_path / "r.json").read_text())
    assert [(row["case"], row["identical"], row["weights"]) for row in written["rows"]] == [
        ("shuffle_off", True, 0.0),
        ("initial_epoch", True, 0.0),
    ]
    assert written["versions"]["keras"] == keras.__version__


def test_the_command_fails_if_a_case_does(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    class Flags:
        case = ("small",)
        json = None

    monkeypatch.setattr(parity, "CASES", {"small": Case("small", lambda: (_ for _ in ()).throw(OSError("gone")))})
    monkeypatch.setattr(parity.flags, "FLAGS", Flags)
    with pytest.raises(SystemExit) as left:
        parity.main(["parity"])
    assert int(left.value.code or 0) == 1
    assert capsys.readouterr().out.splitlines()[-1] == "parity 0/1 bit-identical"
