"""Runs as their directories tell of them. Needs no TensorFlow, and takes about a millisecond per run."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from fitcore.command_line import curves, run_state
from fitcore.command_line.differences import leaves

TAIL = 1 << 20  # bytes of a file of curves in which its last epoch is looked for


@dataclass
class Record:
    """A run's directory; what is in it is read when it is asked for.

    Attributes:
      path: the directory.
      state: as `run_state.state_of` says.
    """

    path: Path
    state: str

    @cached_property
    def flags(self) -> dict[str, str]:
        """By name, the text of each flag's value; those of a flag that may be repeated joined by spaces."""
        return flags_in(_text(self.path / run_state.FLAGS))

    @cached_property
    def environment(self) -> dict[str, Any]:
        """environment.json."""
        return run_state.load(self.path / "environment.json")

    @cached_property
    def status(self) -> dict[str, Any]:
        """status.json."""
        return run_state.load(self.path / "status.json")

    @cached_property
    def result(self) -> dict[str, Any]:
        """result.json."""
        return run_state.load(self.path / "result.json")

    @cached_property
    def last_epochs(self) -> dict[str, dict[str, Any]]:
        """By fit, the last epoch in its curves, as these hold it."""
        found = {}
        for path in sorted((self.path / curves.FOLDER).glob("*.jsonl")):
            with open(path, "rb") as file:
                file.seek(max(0, path.stat().st_size - TAIL))
                for text in reversed(file.read().splitlines()):
                    try:
                        line = json.loads(text)
                    except ValueError:  # half a line
                        continue
                    if line["epochs"]:
                        found[line["fit"]] = line["epochs"][-1]
                        break
        return found

    def metrics(self) -> dict[str, float]:
        """The numbers in the result; without one, the last epoch's, called "FIT: NAME" if there are several fits."""
        if self.result:
            return numbers(self.result)
        many = len(self.last_epochs) > 1
        return {
            f"{fit}: {name}" if many else name: value
            for fit, epoch in self.last_epochs.items()
            for name, value in epoch["logs"].items()
        }

    def seconds(self) -> float | None:
        """From its last start to its end, or until now; to the last it wrote if it was killed; None if that isn't known."""
        if "seconds" in self.status:
            return float(self.status["seconds"])
        try:
            start = datetime.strptime(self.environment["starts"][-1]["started"], run_state.TIME).timestamp()
        except (LookupError, ValueError):
            return None
        if self.state == run_state.RUNNING:
            return time.time() - start
        written = [path.stat().st_mtime for path in (self.path / curves.FOLDER).glob("*.jsonl")]
        return max(written) - start if written and max(written) > start else None

    def surroundings(self) -> dict[str, Any]:
        """What the bits may depend on besides the flags, by its place: versions, machine, commit; and of each fit its data."""
        about = ("git_commit", "versions", "platform", "cpu_cores", "devices")
        found = {name: self.environment.get(name) for name in about}
        for path in sorted((self.path / curves.FOLDER).glob("*.jsonl")):
            with open(path, "rb") as file:
                try:
                    line = json.loads(file.readline())
                except ValueError:
                    continue
            found[line["fit"]] = line.get("fingerprint")
        return dict(leaves(found))

    def fits(self) -> dict[str, dict[str, Any]]:
        """Each fit as history.json has it; of a run that has not got so far what the curves tell."""
        complete = run_state.load(self.path / "history.json")
        if complete and self.state != run_state.RUNNING:
            return complete
        found = {}
        for name, fit in curves.read(self.path).items():
            history: dict[str, list[float]] = {}
            for epoch in fit["epochs"]:
                for metric, value in epoch["logs"].items():
                    history.setdefault(metric, []).append(value)
            found[name] = {
                "epoch": [epoch["epoch"] for epoch in fit["epochs"]],
                "history": history,
                "first_step": min((int(steps[0]) for steps, _ in fit["steps"].values()), default=0),
                "steps": {metric: values.tolist() for metric, (_, values) in fit["steps"].items()},
            }
        return found


def flags_in(flagfile: str) -> dict[str, str]:
    """By name, the text of each flag's value; those of a flag that may be repeated joined by spaces."""
    found: dict[str, str] = {}
    for line in flagfile.splitlines():
        if line.startswith("--"):
            name, _, value = line[2:].partition("=")
            found[name] = f"{found[name]} {value}" if name in found else value
    return found


def numbers(result: Mapping[str, Any]) -> dict[str, float]:
    """The numbers in a result, also in its parts, but no truths, no measured times and none in lists."""
    return {
        name: value
        for name, value in leaves(result)
        if isinstance(value, (int, float)) and not isinstance(value, bool) and "[" not in name
    }


def aligned(rows: Iterable[Sequence[str]]) -> list[str]:
    """Lines of a table."""
    rows = list(rows)
    widths = [max(map(len, column)) for column in zip(*rows)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows]


def is_run(path: Path) -> bool:
    """Whether it is a run's directory."""
    return (path / run_state.FLAGS).is_file()


def read(path: Path) -> Record:
    """The run in a directory."""
    return Record(path, run_state.state_of(path))


def find(directory: Path) -> Iterator[Record]:
    """The runs in and below a directory, by their paths; what is below a run is its own."""
    if is_run(directory):
        yield read(directory)
        return
    with os.scandir(directory) as entries:
        below = sorted(entry.path for entry in entries if entry.is_dir(follow_symlinks=False))
    for path in below:
        yield from find(Path(path))


def differing(records: list[Record]) -> list[str]:
    """Names of the flags that are not the same in all of these runs."""
    names = sorted({name for record in records for name in record.flags})
    return [name for name in names if len({record.flags.get(name) for record in records}) > 1]


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
