"""Curves in a run's directory, written while its fits train: curves/FIT.jsonl. Needs no TensorFlow.

A line holds what came since the line before:
    {"fit": name, "first": index of the first step in it, "steps": {name: [a value per step]},
     "epochs": [{"epoch": index, "step": steps done, "seconds": since the fit's start, "logs": {name: value}}],
     "time": Unix time, "seconds": since the fit's start}
and the first one "fingerprint", what is trained and on which data, if `fitcore.fit` trains it.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

FOLDER = "curves"
SECONDS = 1.0  # between two lines, about, within an epoch
EPOCH_SECONDS = 0.1  # at least, between two at epochs' ends: a line costs half a millisecond, short epochs take little more
STEPS = 5_000  # in a line at most: what is held as text stays small
AT_ONCE = 1_000  # values that are written without a thread, in about a millisecond

Piece = tuple[int, dict[str, np.ndarray]]  # index of the first step, values by name


def file_of(run: Path, fit: str) -> Path:
    """The file of one fit's curves in a run's directory."""
    return run / FOLDER / f"{fit.replace('/', '__')}.jsonl"


class CurveWriter:
    """Writes one fit's curves as they grow: a line about each second, and at the ends of epochs that are not too short.

    A file that is there from an earlier process is written anew, unless `load_state` says how far it was when the fit was
    saved. What can't be written, to a full disk say, is lost with one warning.

    Args:
      run: the run's directory.
      fit: the fit's name.
    """

    def __init__(self, run: Path, fit: str) -> None:
        self._path, self._fit = file_of(run, fit), fit
        self._steps: list[Piece] = []  # not written yet
        self._epochs: list[dict[str, Any]] = []
        self._names: set[str] = set()  # of all curves so far
        self._bytes = 0  # whole lines in the file
        self._begun = self._written = time.monotonic()
        self._writing: threading.Thread | None = None
        self._fingerprint: Mapping[str, Any] | None = None
        self._told = False

    def begin(self, fingerprint: Mapping[str, Any] | None = None) -> None:
        """The fit begins: seconds count from now on. `fingerprint` goes into the first line."""
        self._fingerprint = fingerprint
        self._begun = self._written = time.monotonic()

    def steps(self, first: int, records: Mapping[str, np.ndarray]) -> None:
        """Take up what was recorded: a value per step by name, from step `first` on. What has several per step is left out."""
        single = {name: values for name, values in records.items() if values.ndim == 1 and len(values)}
        if single:
            self._names |= single.keys()
            self._steps.append((first, single))
        if time.monotonic() - self._written >= SECONDS:
            self.flush()

    def epoch(self, epoch: int, step: int | None, logs: Mapping[str, Any]) -> None:
        """Take up an epoch's logs, after which `step` optimizer steps were done."""
        values = {name: float(value) for name, value in logs.items() if np.ndim(value) == 0}
        self._epochs.append({"epoch": epoch, "step": step, "seconds": self._seconds(), "logs": values})
        if time.monotonic() - self._written >= EPOCH_SECONDS:
            self.flush()

    def complete(self, first: int, curves: Mapping[str, np.ndarray]) -> None:
        """Write those curves of the whole fit that are known at its end only."""
        self.steps(first, {name: values for name, values in curves.items() if name not in self._names})
        self.flush()
        self.wait()

    def flush(self) -> None:
        """Write what has been taken up; much of it in a thread, beside the compiled steps, which leave Python to it."""
        self.wait()
        pieces, self._steps, epochs, self._epochs = _pieces(self._steps), [], self._epochs, []
        self._written = time.monotonic()
        now = {"time": round(time.time(), 3), "seconds": self._seconds()}
        if sum(len(values) for _, records in pieces for values in records.values()) < AT_ONCE:
            self._write(pieces, epochs, now)
        else:
            self._writing = threading.Thread(target=self._write, args=(pieces, epochs, now), name="fitcore curves")
            self._writing.start()

    def wait(self) -> None:
        """Until all is in the file that was to be written."""
        if self._writing is not None:
            self._writing.join()
            self._writing = None

    def _write(self, pieces: list[Piece], epochs: list[dict[str, Any]], now: Mapping[str, float]) -> None:
        if not pieces and not epochs:
            return
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with open(self._path, "r+b" if self._bytes else "wb") as file:
                file.truncate(self._bytes)  # half a line of a killed process, or of a full disk
                file.seek(self._bytes)
                for i, (first, records) in enumerate(pieces or [(epochs[-1]["step"] or 0, {})]):
                    steps = {name: values.tolist() for name, values in records.items()}
                    last = i >= len(pieces) - 1
                    line = {"fit": self._fit, "first": first, "steps": steps, "epochs": epochs if last else [], **now}
                    if not file.tell() and self._fingerprint is not None:
                        line["fingerprint"] = self._fingerprint
                    file.write(json.dumps(line).encode() + b"\n")
                    time.sleep(0)  # a call of steps that is back needn't wait for more than a line
                end = file.tell()
            self._bytes = end
        except OSError as error:
            if not self._told:
                self._told = True
                warnings.warn(
                    f"Curves can't be written to {self._path}: {error}. Training goes on; these points are lost.", stacklevel=2
                )

    def state(self) -> dict[str, Any]:
        """Where the file is, for another process to go on from; writes what is held first."""
        self.flush()
        self.wait()
        return {"bytes": self._bytes, "names": sorted(self._names), "seconds": self._seconds()}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on where another process's fit was saved; what it wrote after that comes again."""
        size = self._path.stat().st_size if self._path.exists() else 0
        self._steps, self._epochs, self._names = [], [], set(state["names"])
        self._bytes = min(state["bytes"], size)
        self._begun = time.monotonic() - state["seconds"]
        with contextlib.suppress(OSError):  # the next write does so too
            os.truncate(self._path, self._bytes)

    def _seconds(self) -> float:
        return round(time.monotonic() - self._begun, 3)


def _pieces(held: list[Piece]) -> list[Piece]:
    """What goes into a line each: joined where one goes on where the one before ended, and cut to STEPS."""
    found: list[Piece] = []
    i = 0
    while i < len(held):
        first, records = held[i]
        parts, length = [records], _length(records)
        while (i := i + 1) < len(held) and held[i][0] == first + length and held[i][1].keys() == records.keys():
            parts.append(held[i][1])
            length += _length(held[i][1])
        joined = {name: np.concatenate([part[name] for part in parts]) for name in records}
        for start in range(0, length, STEPS):
            found.append((first + start, {name: values[start : start + STEPS] for name, values in joined.items()}))
    return found


def _length(records: Mapping[str, np.ndarray]) -> int:
    return len(next(iter(records.values())))


def read(run: str | os.PathLike[str]) -> dict[str, dict[str, Any]]:
    """All curves of a run so far, also of one that is running or was killed.

    Returns:
      By fit: "steps", by name (int64 array of steps, ascending; float64 array of values), and "epochs", dicts with "epoch",
      "step", "seconds" and "logs" in the order of the epochs. Where a step or an epoch is there twice, the later line counts.

    Raises:
      OSError: the files can't be read.
    """
    found: dict[str, dict[str, Any]] = {}
    for path in sorted(Path(run, FOLDER).glob("*.jsonl")):
        pieces: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}
        epochs: dict[tuple[int, int], dict[str, Any]] = {}  # a History that several fits share has an epoch 0 of each
        fit = None
        for line in lines_of(path):
            fit = line["fit"]
            for name, values in line["steps"].items():
                steps = np.arange(line["first"], line["first"] + len(values))
                pieces.setdefault(name, []).append((steps, np.array(values, np.float64)))
            epochs |= {(each["step"] or 0, each["epoch"]): each for each in line["epochs"]}
        if fit is not None:
            curves = {name: _ascending(*map(np.concatenate, zip(*each))) for name, each in pieces.items()}
            found[fit] = {"steps": curves, "epochs": [epochs[place] for place in sorted(epochs)]}
    return found


def lines_of(path: Path) -> Iterator[dict[str, Any]]:
    """The lines of a file of curves, but for half a line at its end: its process writes it just now, or was killed."""
    with open(path, "rb") as file:
        for line in file:
            with contextlib.suppress(ValueError):
                yield json.loads(line)


def _ascending(steps: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each step once, with its last value."""
    if np.all(np.diff(steps) > 0):
        return steps, values
    unique, place = np.unique(steps[::-1], return_index=True)
    return unique, values[::-1][place]
