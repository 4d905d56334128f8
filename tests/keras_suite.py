"""Keras's own tests as the jury: what they say of Keras patched by fitcore.

    python -m tests.keras_suite          # the trainer's and the callbacks' tests
    python -m tests.keras_suite --all    # also those of models, optimizers, distillation and data adapters

Every test that passes unpatched must pass patched. So each group of test files runs with `fitcore.patch_keras()` on, and what
does not pass runs again unpatched, in a process of its own: a test that passes there has regressed. Those that don't either
and files that can't be read (some need packages that are not there) don't count, but are shown. Ends with status 1 if a test
regressed, 2 if none in a group passes.

The wheels of older Keras versions hold no tests. `--tests FOLDER` takes them from the `keras/src` of another one: what of its
tests passes on the installed version must pass patched.

The module is also the pytest plugin that patches Keras and notes outcomes and counts in these processes.
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

GROUPS = {
    "trainer": ["trainers/trainer_test.py"],
    "callbacks": ["callbacks/*_test.py"],
    "models": ["models/*_test.py"],
    "optimizers": ["optimizers/*_test.py"],
    "distillation": ["distillation/*_test.py"],
    "data adapters": ["trainers/data_adapters/*_test.py"],
}
ALWAYS = ["trainer", "callbacks"]


def installed_tests() -> Path | None:
    """The folder of the installed Keras that holds its tests; None if its wheel came without."""
    spec = importlib.util.find_spec("keras")
    assert spec is not None
    assert spec.origin is not None
    folder = Path(spec.origin).parent / "src"
    return folder if (folder / "trainers/trainer_test.py").exists() else None


# --- the jury -----------------------------------------------------------------------------------------------------------


@dataclass
class Verdict:
    """What the runs of a group of test files say.

    Attributes:
      patched: outcome ("passed", "failed", "skipped") by test.
      unpatched: the same of those that did not pass patched.
      calls: by method: how many calls fitcore ran.
      fallbacks: by "method: reason": the tests in which Keras ran a call itself, one entry per call.
    """

    patched: dict[str, str]
    unpatched: dict[str, str]
    calls: dict[str, int]
    fallbacks: dict[str, list[str]]

    @property
    def passed(self) -> int:
        """How many tests pass patched."""
        return sum(outcome == "passed" for outcome in self.patched.values())

    @property
    def regressions(self) -> list[str]:
        """Tests that pass unpatched and don't patched."""
        return [test for test, outcome in self.unpatched.items() if outcome == "passed"]

    @property
    def unread(self) -> list[str]:
        """Test files that could not be read."""
        return [test for test, outcome in self.patched.items() if outcome == "unread"]

    def report(self) -> str:
        """The account, in lines."""
        count = Counter(self.patched.values())
        ran = ", ".join(f"{number} {method}" for method, number in sorted(self.calls.items()))
        lines = [
            f"{len(self.patched) - count['unread']} tests; patched: {self.passed} passed, {count['failed']} failed, "
            f"{count['skipped']} skipped; of those not passed, {len(self.regressions)} pass unpatched: regressions",
            f"calls through fitcore: {ran or 'none'}; run by Keras: {sum(map(len, self.fallbacks.values()))}",
        ]
        for reason, tests in self.fallbacks.items():
            lines += [f"  {len(tests)} x {reason}", *(f"      in {test}" for test in sorted(set(tests)))]
        lines += [f"  could not be read: {test}" for test in self.unread]
        lines += [f"  REGRESSION: {test}" for test in self.regressions]
        return "\n".join(lines)


def judge(files: Sequence[Path]) -> Verdict:
    """Run the tests in `files` patched, and what does not pass unpatched."""
    with tempfile.TemporaryDirectory() as folder:
        for file in files:
            shutil.copy(file, folder)
        Path(folder, "pytest.ini").write_text("[pytest]\n")  # the project's settings are not Keras's
        patched = _run(folder, [file.name for file in files], patched=True)
        left = [test for test, outcome in patched["outcomes"].items() if outcome != "passed"]
        unpatched = _run(folder, left, patched=False)["outcomes"] if left else {}
    unseen = [test for test in left if test not in unpatched and patched["outcomes"][test] != "unread"]
    if unseen:
        raise RuntimeError(f"did not pass patched, and pytest didn't find them unpatched: {unseen}")
    return Verdict(patched["outcomes"], unpatched, patched["calls"], patched["fallbacks"])


def _run(folder: str, tests: Sequence[str], patched: bool) -> dict[str, Any]:
    notes = Path(folder, "patched" if patched else "unpatched")
    command = [sys.executable, "-m", "pytest", "-q", "--continue-on-collection-errors", "-p", "no:cacheprovider"]
    command += ["-p", "keras_suite", f"--notes={notes}", *(["--patched"] if patched else []), *tests]
    here = Path(__file__).parent
    path = os.pathsep.join(filter(None, [str(here), str(here.parent), os.environ.get("PYTHONPATH")]))
    environment = os.environ | {"PYTHONPATH": path, "PYTHONHASHSEED": "0", "TF_CPP_MIN_LOG_LEVEL": "2"}
    with notes.with_suffix(".log").open("wb") as log:
        subprocess.run(command, cwd=folder, env=environment, stdout=log, stderr=subprocess.STDOUT, check=False)
    return json.loads(notes.read_text())


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.keras_suite", description=__doc__.split("\n", 1)[0])
    parser.add_argument("--all", action="store_true", help="every group, not only the trainer's and the callbacks' tests")
    parser.add_argument("--group", action="append", choices=GROUPS, help="only this group; may be given again")
    parser.add_argument("--tests", type=Path, metavar="FOLDER", help="the keras/src of another version, to take its tests")
    options = parser.parse_args(arguments)
    folder = options.tests or installed_tests()
    if folder is None:
        print("The installed Keras came without its tests; --tests takes those of another version.")
        return 2
    status = 0
    for group in options.group or (GROUPS if options.all else ALWAYS):
        started = time.monotonic()
        verdict = judge([file for pattern in GROUPS[group] for file in sorted(folder.glob(pattern))])
        print(f"== {group} ({time.monotonic() - started:.0f} s)\n{verdict.report()}", flush=True)
        status = max(status, 1 if verdict.regressions else 0 if verdict.passed else 2)
    return status


# --- the plugin ---------------------------------------------------------------------------------------------------------


@dataclass
class Notes:
    """What a run of pytest notes down."""

    path: Path
    patch: Any  # fitcore.Patch, None in the unpatched run
    outcomes: dict[str, str] = field(default_factory=dict)
    fallbacks: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self.outcomes[report.nodeid] = "unread"

    def pytest_collection_finish(self) -> None:
        gc.freeze()  # Keras's tests collect garbage, each of them: what is imported by now needn't be looked through

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        before = self.patch.fallbacks.copy() if self.patch else Counter()
        result = yield
        if self.patch:
            for (method, reason), number in (self.patch.fallbacks - before).items():
                self.fallbacks[f"{method}: {reason}"] += [item.nodeid] * number
        return result

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        worst = self.outcomes.get(report.nodeid, "passed")
        self.outcomes[report.nodeid] = report.outcome if worst == "passed" else worst

    def pytest_sessionfinish(self) -> None:
        calls = self.patch.calls if self.patch else {}
        self.path.write_text(json.dumps({"outcomes": self.outcomes, "calls": calls, "fallbacks": self.fallbacks}))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--notes", type=Path)
    parser.addoption("--patched", action="store_true")


def skip_if_backend(backend: str, reason: str) -> pytest.MarkDecorator:
    """What some tests import from Keras's own conftest.py, which is not in its wheel."""
    return pytest.mark.skipif(backend == "tensorflow", reason=reason)


def pytest_configure(config: pytest.Config) -> None:
    sys.modules["conftest"] = sys.modules[__name__]
    config.addinivalue_line("markers", "requires_trainable_backend: Keras's own, true of TensorFlow")
    patch = None
    if config.getoption("--patched"):
        import fitcore

        patch = fitcore.patch_keras()
    config.pluginmanager.register(Notes(config.getoption("--notes"), patch))


if __name__ == "__main__":
    sys.exit(main())
