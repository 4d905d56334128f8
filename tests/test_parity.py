"""The parity command would notice if two trainings were not identical. That they are, case by case, CI proves by running it."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import keras
import numpy as np
import pytest
from absl.app import UsageError

import fitcore
from benchmarks import parity
from benchmarks.parity import __main__ as command
from benchmarks.parity import table
from benchmarks.parity.comparison import Outcome, Row, judged, train
from benchmarks.parity.setup import CASES, Case, Impossible, Setup, mlp, regression

ROOT = Path(__file__).parent.parent


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


def small() -> Setup:
    """One feature is always zero: its weights' momenta stay zero."""
    data = regression(64)
    data["x"][:, 5] = 0.0
    return mlp(), data | {"epochs": 2}


@pytest.fixture(scope="module")
def by_keras() -> Outcome:
    return train(Case("small", small), keras.Model)


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
def test_what_differs_is_noticed(fit: Callable[..., Any], where: tuple[bool, ...], by_keras: Outcome) -> None:
    row = judged("small", by_keras, by_keras, train(Case("small", small), SimpleNamespace(fit=fit)))
    assert (row.verdict, row.identical) == ("NO", False)
    differences = [row.weights, row.optimizer, row.history]
    assert [value is not None and value > 0 for value in differences] == [*where]


def test_a_case_that_proves_nothing_is_not_counted(by_keras: Outcome) -> None:
    """What Keras doesn't repeat, and what fails."""
    seeded_otherwise = dataclasses.replace(by_keras, history={"loss": np.zeros(2)})
    row = judged("unrepeatable", by_keras, seeded_otherwise, by_keras)
    assert (row.verdict, row.identical) == ("Keras not deterministic", False)

    def broken() -> Setup:
        raise ValueError("some words\nand more")

    row = parity.compare(Case("broken", broken))
    assert (row.verdict, row.identical, row.weights) == ("ValueError: some words", False, None)


def test_keras_trains_again_where_the_bits_differ_at_least() -> None:
    built: list[int] = []

    def counted() -> Setup:
        built.append(1)
        return small()

    for fit, repeat, trainings, verdict in (
        (fitcore.fit, True, 3, "yes"),
        (fitcore.fit, False, 2, "yes"),
        (one_ulp, False, 3, "NO"),
    ):
        built.clear()
        row = parity.compare(Case("counted", counted), SimpleNamespace(fit=fit), repeat=repeat)
        assert (row.verdict, row.identical, len(built)) == (verdict, verdict == "yes", trainings)


def test_what_a_version_lacks_is_skipped() -> None:
    def impossible() -> Setup:
        raise Impossible("not before Keras 9")

    row = parity.compare(Case("impossible", impossible))
    assert (row.verdict, row.identical, row.skipped) == ("skipped: not before Keras 9", False, True)


def test_what_a_case_reports_is_compared() -> None:
    """Not only weights and History: a case of several calls names what else counts."""

    def several() -> Setup:
        model = mlp()
        return model, lambda by: {"loss": by.evaluate(model, **regression(32), verbose=0), "text": by.__name__}

    fake = SimpleNamespace(evaluate=fitcore.evaluate, __name__="Model")
    assert parity.compare(Case("several", several), fake).verdict == "yes"
    row = judged("several", *[train(Case("several", several), by) for by in (keras.Model, keras.Model, fitcore)])
    assert (row.verdict, row.weights, row.history) == ("NO", 0.0, math.inf)


def test_there_are_enough_cases() -> None:
    assert len(CASES) >= 120
    for name, case in CASES.items():
        assert case.name == name
        assert case.text
        assert case.theme
        assert "|" not in case.text
    assert len({case.text for case in CASES.values()}) == len(CASES)
    assert all(text and "|" not in text for _, text in table.LISTED.values())


def results(odd: Row | None = None, version: str = "1") -> dict[str, Any]:
    rows = [Row(name, True, "yes", 0.0, 0.0, 0.0, 1.0) for name in table.LISTED]
    if odd is not None:
        rows = [odd if row.case == odd.case else row for row in rows]
    versions = {"keras": version, "tensorflow": "2", "numpy": "3", "python": "4"}
    cpu = {"name": "A CPU", "features": ["avx2", "avx512f"]}
    about = {"versions": versions, "device": "CPU", "date": "2026-01-01", "cpu": cpu, "onednn": "1", "onednn_by_default": "1"}
    return about | {"rows": [dataclasses.asdict(row) for row in rows]}


def test_the_table_lists_exactly_the_cases() -> None:
    """PARITY.md would be stale otherwise: run the three commands at its head."""
    cases, _, _ = table.PARITY.read_text().partition(table.BAD_CALLS)
    listed = re.findall(r"^\| (.*) \| `(\w+)` \| (.*) \|$", cases, re.MULTILINE)
    assert [(text, name) for text, name, _ in listed] == [(text, name) for name, (_, text) in table.LISTED.items()]
    assert len({verdicts.count(" | ") for _, _, verdicts in listed}) == 1
    for _, name, verdicts in listed:
        for verdict in verdicts.split(" | "):
            assert verdict.startswith(("yes", "skipped: ")), name


def test_the_readme_says_what_the_table_says() -> None:
    newest = re.search(r"^\| 1 \| .* \| (\d+ of \d+) \|$", table.PARITY.read_text(), re.MULTILINE)
    assert newest is not None
    assert f"[{newest[1]} cases](PARITY.md)" in (ROOT / "README.md").read_text()


def test_the_table_says_what_differs() -> None:
    odd = Row("sgd", False, "NO", 0.25, 0.0, 1e-7, 1.0)
    written = table.parity_table([results(), results(odd, "0")])
    assert "| `sgd` | yes | **no**: weights differ by up to 0.25, optimizer 0, History 1e-07 |" in written
    assert f"| {len(table.LISTED)} of {len(table.LISTED)} |" in written
    assert f"| {len(table.LISTED) - 1} of {len(table.LISTED)} |" in written
    again = results(Row("sgd", True, "yes", 0, 0, 0, 1.0, op_determinism=True), "0")
    again["rows"] = [row for row in again["rows"] if row["case"] == "sgd"]
    joined = table.parity_table([results(), results(odd, "0"), again])
    assert "| `sgd` | yes | yes, with op determinism |" in joined
    with pytest.raises(ValueError, match="every case"):
        table.parity_table([results(), again])


def test_the_command(tmp_path: Path) -> None:
    """Its last line, its exit status, and the JSON; a fit that is wrong is seen from outside too."""
    arguments = [
        sys.executable,
        "-m",
        "benchmarks.parity",
        "--case=dict_inputs_and_outputs",
        "--case=initial_epoch",
        f"--json={tmp_path}/r.json",
    ]
    environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(arguments, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines[-3:]] == ["dict_inputs_and_outputs", "initial_epoch", "parity"]
    assert lines[-1] == "parity 2/2 bit-identical"
    assert lines[0].startswith(f"Keras {keras.__version__}, TensorFlow ")
    (written,) = json.loads((tmp_path / "r.json").read_text())
    assert [(row["case"], row["identical"], row["weights"]) for row in written["rows"]] == [
        ("dict_inputs_and_outputs", True, 0.0),
        ("initial_epoch", True, 0.0),
    ]
    assert written["versions"]["keras"] == keras.__version__


def test_the_command_fails_if_a_case_does(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """And not if one is skipped; what Keras doesn't repeat is tried again with op determinism, and marked."""

    class Flags:
        case = ("small", "unknown", "unsteady")
        json: str | None = None
        op_determinism = kernels = False
        repeat = kinds = True
        onednn = "here"

    rows = {
        "small": Row("small", False, "ValueError: gone", None, None, None, 1.0),
        "unknown": Row("unknown", False, "skipped: too old", None, None, None, 1.0),
        "unsteady": Row("unsteady", False, "Keras not deterministic", 1.0, 1.0, 1.0, 1.0),
    }
    again = Row("unsteady", True, "yes", 0.0, 0.0, 0.0, 1.0, op_determinism=True)
    monkeypatch.setattr(command, "CASES", {name: name for name in rows})
    monkeypatch.setattr(command, "compare", lambda name, repeat: rows[name])
    monkeypatch.setattr(command, "compare_deterministically", lambda name: again)
    monkeypatch.setattr(command.flags, "FLAGS", Flags)
    with pytest.raises(SystemExit) as left:
        command.main(["parity"])
    assert int(left.value.code or 0) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "parity 1/2 bit-identical, 1 skipped"
    assert lines[-2].endswith("yes, with op determinism")
    Flags.case = ("unknown", "unsteady")
    with pytest.raises(SystemExit) as left:
        command.main(["parity"])
    assert int(left.value.code or 0) == 0
    Flags.json, Flags.repeat = "rows.json", False
    with pytest.raises(UsageError, match="--norepeat"):
        command.main(["parity"])


def test_again_with_op_determinism() -> None:
    row = command.compare_deterministically("epochs_zero")
    assert (row.verdict, row.op_determinism) == ("yes", True)
