"""The parity command under oneDNN's two settings, and what PARITY.md says of them and of the CPU."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from test_parity import ROOT, results

from benchmarks.kinds import LEFT_OUT
from benchmarks.parity import ABOUT_KERNELS, CASES, cluster, kinds, setting, table
from benchmarks.parity import __main__ as command
from benchmarks.parity.comparison import Row
from fitcore import keras_private


def run_of(onednn: str, **changes: Any) -> dict[str, Any]:
    return results() | {"onednn": onednn} | changes


def odd(run: dict[str, Any], row: Row) -> dict[str, Any]:
    run = copy.deepcopy(run)
    run["rows"] = [vars(row) if each["case"] == row.case else each for each in run["rows"]]
    return run


def test_a_column_for_each_setting() -> None:
    """Results of one version under both settings are not joined."""
    differs = Row("layer_ReLU", False, "NO", 0.25, 0.0, 0.5, 1.0, claim="with noise")
    written = table.parity_table([run_of("1"), odd(run_of("0"), differs)])
    assert "| feature | case | Keras 1, oneDNN on | Keras 1, oneDNN off |\n|---|---|---|---|" in written
    assert "| `ReLU(6.0, 0.1, 0.2)` | `layer_ReLU` | yes | **no** with noise: weights differ by up to 0.25" in written
    count = len(table.LISTED)
    assert f"| 1 | 1 | 2 | 3 | 4 | CPU | on | 2026-01-01 | {count} of {count} |" in written
    assert f"| 2 | 1 | 2 | 3 | 4 | CPU | off | 2026-01-01 | {count - 1} of {count} |" in written


def test_an_error_names_the_claim() -> None:
    failed = Row("layer_ReLU", False, "ValueError: gone", None, None, None, 1.0, claim="with noise, resumed")
    assert "| with noise, resumed: ValueError: gone |" in table.parity_table([odd(run_of("1"), failed)])


def test_cpus_are_named() -> None:
    other = {"cpu": {"name": "", "features": []}, "onednn_by_default": "0"}
    written = table.parity_table([run_of("1"), run_of("0"), run_of("0", versions=results(version="9")["versions"], **other)])
    default = "TensorFlow's default there: oneDNN"
    assert f"CPU of runs 1, 2: A CPU. Its features that decide on kernels: avx2, avx512f. {default} on." in written
    assert f"CPU of run 3: unknown. Its features that decide on kernels: unknown. {default} off." in written


def test_what_is_left_out_is_said() -> None:
    for module, names in LEFT_OUT.items():
        for name, why in names.items():
            assert f"\n- `{module}.{name}` {why}.\n" in table.TAIL


def test_features_of_the_cpu(tmp_path: Path) -> None:
    info = tmp_path / "cpuinfo"
    info.write_text("model name\t: One CPU\nflags\t\t: fpu avx avx2 fma avx512_vnni\n\nmodel name\t: One CPU\nflags\t: fpu\n")
    assert setting.cpu(info) == {"name": "One CPU", "features": ["avx", "avx2", "fma", "avx512_vnni"]}
    assert setting.cpu(tmp_path / "none")["features"] == []


def test_tensorflows_default(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is what this process has, unless someone asked for that."""
    monkeypatch.delenv(setting.VARIABLE, raising=False)
    monkeypatch.setattr(keras_private, "onednn_is_on", lambda: False)
    assert (setting.here(), setting.other(), setting.by_default()) == ("0", "1", "0")
    monkeypatch.undo()
    asked: list[Any] = []

    def started(command: list[str], env: dict[str, str], **more: Any) -> Any:
        asked.append(setting.VARIABLE in env)
        return subprocess.CompletedProcess(command, 0, "words of others\n1\n")

    monkeypatch.setenv(setting.VARIABLE, "0")
    monkeypatch.setattr(subprocess, "run", started)
    assert (setting.by_default(), asked) == ("1", [False])


class Flags:
    """The command's, as they are by default."""

    case: tuple[str, ...] | None = ("epochs_zero",)
    json: str | None = None
    op_determinism = kernels = False
    repeat = kinds = True
    onednn = "here"


@pytest.mark.parametrize(
    ("asked", "ran"),
    [("here", ["this"]), ("1", ["this"]), ("0", ["0"]), ("other", ["0"]), ("both", ["this", "0"])],
)
def test_where_each_setting_is_run(asked: str, ran: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """In this process, which has oneDNN on, or in another; one that fails is enough."""
    seen: list[str] = []

    def note(which: str, passes: bool) -> bool:
        seen.append(which)
        return passes

    for fails in (None, *ran):
        monkeypatch.setattr(keras_private, "onednn_is_on", lambda: True)
        monkeypatch.setattr(command.flags, "FLAGS", type("Asked", (Flags,), {"onednn": asked}))
        monkeypatch.setattr(command, "in_this_process", lambda fails=fails: note("this", fails != "this"))
        monkeypatch.setattr(command, "in_another", lambda which, fails=fails: note(which, fails != which))
        seen.clear()
        with pytest.raises(SystemExit) as left:
            command.main(["parity"])
        assert (seen, bool(left.value.code)) == (ran, fails is not None)


def test_both_settings(tmp_path: Path) -> None:
    """The command from outside: a run for each in one file, the other one's from a process that has it."""
    arguments = ["--onednn=both", "--case=epochs_zero", "--case=optimizer_SGD", f"--json={tmp_path}/r.json"]
    environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"}
    command_line = [sys.executable, "-m", "benchmarks.parity", *arguments]
    done = subprocess.run(command_line, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("parity 2/2 bit-identical\n") == 2
    here, there = json.loads((tmp_path / "r.json").read_text())
    assert (here["onednn"], there["onednn"]) == (setting.here(), setting.other())
    assert here["onednn_by_default"] == there["onednn_by_default"]
    assert here["cpu"] == there["cpu"] == setting.cpu()
    assert [row["case"] for row in here["rows"] + there["rows"]] == ["epochs_zero", "optimizer_SGD"] * 2


def test_what_kernels_leaves_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each theme of `ABOUT_KERNELS` is there; nothing of calls, callbacks, files, data and strategies is."""
    monkeypatch.setattr(command.flags, "FLAGS", type("Asked", (Flags,), {"case": None, "kernels": True}))
    names = command.chosen()
    assert {CASES[name].theme for name in names if name in CASES} == ABOUT_KERNELS
    assert set(kinds.KINDS) <= set(names)
    assert not set(cluster.WAYS) & set(names)
    monkeypatch.setattr(command.flags, "FLAGS", type("Asked", (Flags,), {"case": None}))
    assert len(command.chosen()) == len(table.LISTED)
    monkeypatch.setattr(command.flags, "FLAGS", type("Asked", (Flags,), {"case": None, "kinds": False}))
    assert set(command.chosen()) == set(table.LISTED) - set(kinds.KINDS)
