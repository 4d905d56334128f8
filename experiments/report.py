"""Runs the five questions, all fifteen examples, and writes what they found: RESULTS.md, its plots, and TensorBoard.

    python -m experiments.report                 # the full length; writes RESULTS.md and results/*.png here
    python -m experiments.report --quick         # a few minutes; writes them beside the runs, runs/report/...
    python -m experiments.report --only=A,C      # some questions; likewise

Each question runs in a process of its own, into a folder that is named after the length, the seed and all the code and
versions that the numbers depend on. So a report that was interrupted goes on where it was, one that is complete is written
again without running anything, and a change of the code runs everything again. --fresh does so anyhow.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import platform
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import app, flags

from experiments.claims.markdown import table_of, write

MODULES = {"A": "one_pass", "B": "convergence", "C": "lstm_fits", "D": "on_batch", "E": "repeated_fits"}
CLAIMS = [
    f"{letter}-{claim}" for letter, claims in zip("ABCDE", ("abcde", "abcd", "abcde", "abcd", "abcd")) for claim in claims
]
SHARES = {  # of the time, about, of a quick and of a full report: what the bar is told by
    "A": (1.0, 4.8),
    "B": (1.0, 3.4),
    "C": (1.0, 6.6),
    "D": (0.7, 1.2),
    "E": (1.0, 3.0),
}

QUICK = flags.DEFINE_bool("quick", False, "Each question at its default length, about a minute.")
ONLY = flags.DEFINE_list("only", [], "Questions to run, by letter. Default: all five.")
RUNS = flags.DEFINE_string("runs", "runs/report", "Folder the runs are kept in.")
FRESH = flags.DEFINE_bool("fresh", False, "Run everything again, whatever there is.")
SEED = flags.DEFINE_integer("first_seed", 0, "First seed of each comparison.", lower_bound=0)

ROOT = Path(__file__).parent.parent


def fingerprint() -> str:
    """A short digest of all that the numbers depend on: the code and the versions."""
    digest = hashlib.sha256()
    for folder in ("experiments", "fitcore"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            if path.name not in ("report.py", "markdown.py", "digits.py", "noise_scale.py"):
                digest.update(f"{path.relative_to(ROOT)}\0".encode() + path.read_bytes() + b"\0")
    digest.update(repr((sorted(versions().items()), platform.machine())).encode())
    return digest.hexdigest()[:10]


def versions() -> dict[str, str]:
    """What is installed of what the experiments use."""
    packages = ("tensorflow", "keras", "numpy", "mlxtend", "scikit-learn", "statsmodels", "matplotlib")
    found = {"python": platform.python_version()}
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


class Bar:
    """Progress over all questions, with the time left: one line that changes on a terminal, a line per part in a pipe."""

    def __init__(self, letters: Sequence[str]) -> None:
        shares = {letter: SHARES[letter][0 if QUICK.value else 1] for letter in letters}
        self._shares = {letter: share / sum(shares.values()) for letter, share in shares.items()}
        self._done = self._skipped = 0.0
        self._start = time.monotonic()

    def show(self, letter: str, part: float, what: str) -> None:
        done = self._done + part * self._shares[letter]
        ran, left = done - self._skipped, ""
        if ran > 0.01:
            seconds = (time.monotonic() - self._start) / ran * (1 - done)
            left = f", {seconds // 60:.0f} min {seconds % 60:.0f} s left"
        line = f"{done:4.0%}{left}: {letter}: {what}"
        if sys.stdout.isatty():
            print(
                f"\r\033[K[{'#' * round(20 * done):.<20s}] {line[: shutil.get_terminal_size().columns - 24]}",
                end="",
                flush=True,
            )
        else:
            print(line, flush=True)

    def finished(self, letter: str, skipped: bool = False) -> None:
        self._done += self._shares[letter]
        self._skipped += self._shares[letter] * skipped
        if sys.stdout.isatty():
            print("\r\033[K", end="")


def run_question(letter: str, folder: Path, bar: Bar) -> None:
    """Run a question into `folder`; exits with the last lines of its output if it fails."""
    shutil.rmtree(folder, ignore_errors=True)  # what an interrupted run has left
    module = f"experiments.{MODULES[letter]}"
    command = [sys.executable, "-m", module, f"--logdir={folder}", f"--seed={SEED.value}", "--verbose=0"]
    command += [] if QUICK.value else ["--full"]
    lines: list[str] = []
    bar.show(letter, 0.0, "starts")
    start = time.perf_counter()
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.stdout is not None
    try:
        for line in process.stdout:
            lines.append(line)
            progress = re.match(r"\[ *(\d+) %\] (.*)", line)
            if progress:
                bar.show(letter, int(progress[1]) / 100, progress[2])
        status = process.wait()
    except KeyboardInterrupt:
        process.wait()
        sys.exit(f"\nInterrupted. The same command goes on with question {letter}.")
    if folder.is_dir():
        (folder / "output.txt").write_text("".join(lines))
        (folder / "seconds.txt").write_text(f"{time.perf_counter() - start:.1f}\n")
    if status != 0:
        sys.exit(f"\n{''.join(lines[-25:])}\nQuestion {letter} failed with status {status}: {shlex.join(command)}")


def numbers_sha256(results: Mapping[str, Mapping[str, Any]]) -> str:
    """Digest of all verdicts and numbers: equal for two reports that found the same, to the last bit.

    Left out are times: "seconds", and of claims about times everything but the verdict.
    """
    compared = []
    for letter in sorted(results):
        result = {name: value for name, value in results[letter].items() if name != "seconds"}
        result["claims"] = [
            {"id": claim["id"], "verdict": claim["verdict"]} if claim["timed"] else claim for claim in result["claims"]
        ]
        compared.append(result)
    return hashlib.sha256(json.dumps(compared, sort_keys=True).encode()).hexdigest()


def main(arguments: list[str]) -> None:
    letters = [letter.strip().upper() for letter in ONLY.value] or list(MODULES)
    unknown = sorted(set(letters) - set(MODULES))
    if unknown or len(arguments) > 1:
        sys.exit(f"--only takes letters of {', '.join(MODULES)}. Received: {', '.join(unknown or arguments[1:])}")
    length = "quick" if QUICK.value else "full"
    runs = Path(RUNS.value).absolute() / f"{length}-seed{SEED.value}-{fingerprint()}"
    if FRESH.value:
        for letter in letters:
            shutil.rmtree(runs / letter, ignore_errors=True)
    bar = Bar(letters)
    for letter in letters:
        done = (runs / letter / "result.json").exists()
        if not done:
            run_question(letter, runs / letter, bar)
        bar.finished(letter, skipped=done)
    folders = {letter: runs / letter for letter in MODULES if (runs / letter / "result.json").exists()}
    results = {letter: json.loads((folder / "result.json").read_text()) for letter, folder in folders.items()}
    whole = not QUICK.value and len(results) == len(MODULES)
    out = ROOT if whole and not ONLY.value else runs
    command = (
        "python -m experiments.report"
        + (" --quick" if QUICK.value else "")
        + (f" --first_seed={SEED.value}" if SEED.value else "")
    )
    sha256 = numbers_sha256(results)
    about: dict[str, Any] = {
        "command": command,
        "sha256": sha256,
        "versions": versions(),
        "modules": MODULES,
        "claim_ids": CLAIMS,
    }
    path = write(out, results, folders, **about)
    print(table_of(results, CLAIMS))
    print(f"\n{path}\nSHA-256 of all verdicts and numbers: {sha256}")
    print(f"Curves, figures and plots: tensorboard --logdir {shlex.quote(str(runs))}")


if __name__ == "__main__":
    app.run(main)
