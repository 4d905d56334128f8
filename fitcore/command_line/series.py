"""Curves of runs as they are compared: on one axis, smoothed, and those of several seeds as one. Needs no TensorFlow."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fitcore.command_line import curves, records
from fitcore.command_line.records import Record

AXES = ("step", "epoch", "seconds", "examples")
POINTS = 1000  # of a line whose runs have their values at different places

Array = np.ndarray[Any, np.dtype[np.float64]]


class CurveError(Exception):
    """Runs have no such curve, or not on this axis."""


@dataclass
class FitCurves:
    """The curves of one fit.

    Attributes:
      run: what it is part of.
      name: the fit's.
      values: by name, (steps done, value): of a step's own values after how many steps, of an epoch's after which.
      marks: [n, 3] of steps done, epochs done and seconds since the fit's start, ascending; seconds may be NaN.
    """

    run: Record
    name: str
    values: dict[str, tuple[Array, Array]]
    marks: Array

    def on(self, axis: str, name: str) -> tuple[Array, Array]:
        """(places on the axis, values) of one curve, without those that aren't finite.

        Raises:
          CurveError: it can't be had on this axis.
        """
        steps, values = self.values[name]
        shown = np.isfinite(values)
        return self._places(axis, steps)[shown], values[shown]

    def _places(self, axis: str, steps: Array) -> Array:
        if axis == "step":
            return steps
        if axis == "examples":
            if "noise/batch_size" in self.values:
                done, rows = self.values["noise/batch_size"]
                if len(done) == done[-1] and np.isfinite(rows).all():  # of each step since the first
                    return np.interp(steps, done, np.cumsum(rows))
            if not self.run.flags.get("batch_size", "").isdigit():
                raise CurveError(
                    f"--x=examples: {self.run.path} has neither a flag --batch_size nor noise/batch_size at each step"
                )
            return steps * float(self.run.flags["batch_size"])
        marks = self.marks[:, [0, 1 if axis == "epoch" else 2]]
        marks = marks[np.isfinite(marks).all(axis=1)]
        if not len(marks):
            raise CurveError(f"--x={axis}: {self.run.path} doesn't tell, for {self.name}, when which step was done")
        marks = np.concatenate([[[0.0, 0.0]], marks])
        after = steps > marks[-1, 0]  # of the epoch under way: on at the pace so far
        return np.where(after, steps * marks[-1, 1] / marks[-1, 0], np.interp(steps, *marks.T))


def fits_of(run: Record) -> list[FitCurves]:
    """What a run has recorded so far: from its curves, or the history of one that was written without."""
    found = []
    for name, fit in curves.read(run.path).items():
        values = {each: (steps + 1.0, value) for each, (steps, value) in fit["steps"].items()}
        done = [(epoch["step"], epoch["epoch"] + 1.0, epoch["seconds"]) for epoch in fit["epochs"] if epoch["step"]]
        values |= _of_epochs([epoch["step"] for epoch in fit["epochs"]], [epoch["logs"] for epoch in fit["epochs"]])
        lines = curves.lines_of(curves.file_of(run.path, name))
        done += [
            (line["first"] + max(map(len, line["steps"].values())), np.nan, line["seconds"]) for line in lines if line["steps"]
        ]
        found.append(FitCurves(run, name, values, np.array(sorted(done), np.float64).reshape(-1, 3)))
    return found or _from_history(run)


def _from_history(run: Record) -> list[FitCurves]:
    """From history.json, which doesn't tell when an epoch ended: of epochs of equal length it is known after which step."""
    try:
        history = json.loads((run.path / "history.json").read_text())
    except (OSError, ValueError):
        return []
    found = []
    for name, fit in history.items():
        first, steps = fit["first_step"], max(map(len, fit["steps"].values()), default=0)
        epochs = len(fit["epoch"])
        ends = first + (steps or epochs) * np.arange(1, epochs + 1) / max(epochs, 1)
        values = {
            each: (first + np.arange(1.0, len(value) + 1), np.array(value, np.float64))
            for each, value in fit["steps"].items()
            if np.ndim(value) == 1
        }
        logs = [{each: value[i] for each, value in fit["history"].items() if i < len(value)} for i in range(epochs)]
        marks = [(end, epoch + 1.0, np.nan) for end, epoch in zip(ends, fit["epoch"])]
        found.append(FitCurves(run, name, values | _of_epochs(ends, logs), np.array(marks).reshape(-1, 3)))
    return found


def _of_epochs(ends: Iterable[float | None], logs: Sequence[dict[str, Any]]) -> dict[str, tuple[Array, Array]]:
    pairs: dict[str, list[tuple[float, float]]] = {}
    for end, epoch in zip(ends, logs):
        for name, value in epoch.items():
            if end is not None and isinstance(value, (int, float)):
                pairs.setdefault(name, []).append((end, value))
    return {name: (np.array(each)[:, 0], np.array(each)[:, 1]) for name, each in pairs.items()}


def smoothed(values: Array, factor: float) -> Array:
    """Exponential running mean, as TensorBoard's: each value weighs `factor` times as much as the one after it."""
    means, total, weight = np.empty_like(values), 0.0, 0.0
    for i, value in enumerate(values):
        total, weight = factor * total + value, factor * weight + 1
        means[i] = total / weight
    return means


@dataclass
class Line:
    """Curves that differ in their seed alone, as one.

    Attributes:
      label: those flags that are not the same in all runs that are shown, and the fit, if there are several.
      x: places.
      mean: over the seeds.
      deviation: standard deviation over them, n - 1 in its denominator; NaN where there is only one.
      seeds: how many.
    """

    label: str
    x: Array
    mean: Array
    deviation: Array
    seeds: int


def lines(fits: Sequence[FitCurves], axis: str, name: str, smooth: float = 0.0) -> list[Line]:
    """A curve of all these fits; those of runs that differ only in --seed are one line.

    Raises:
      CurveError: none of them has it, or one has it not on this axis.
    """
    having = [fit for fit in fits if name in fit.values]
    if not having:
        known = sorted({each for fit in fits for each in fit.values})
        raise CurveError(f"--y={name}: there is no such curve. There are: {', '.join(known) or 'none'}")
    runs = list({id(fit.run): fit.run for fit in fits}.values())
    shown = [flag for flag in records.differing(runs) if flag != "seed"]
    several = len({fit.name for fit in fits}) > 1
    groups: dict[Any, list[FitCurves]] = {}
    for fit in having:
        flags = {flag: value for flag, value in fit.run.flags.items() if flag != "seed"}
        groups.setdefault((fit.run.environment.get("experiment"), *sorted(flags.items()), fit.name), []).append(fit)
    found = []
    for group in groups.values():
        words = [group[0].name] * several + [f"--{flag}={group[0].run.flags.get(flag, '')}" for flag in shown]
        found.append(_line(" ".join(words), [fit.on(axis, name) for fit in group], smooth))
    return found


def _line(label: str, each: Sequence[tuple[Array, Array]], smooth: float) -> Line:
    each = [(x, smoothed(y, smooth)) for x, y in each if len(x)]
    if not each:
        nothing = np.zeros(0)
        return Line(label, nothing, nothing, nothing, 0)
    x = max((places for places, _ in each), key=len)
    if any(not np.array_equal(places, x[: len(places)]) for places, _ in each):
        x = np.linspace(min(places[0] for places, _ in each), max(places[-1] for places, _ in each), POINTS)
    table = np.stack([np.interp(x, places, y, left=np.nan, right=np.nan) for places, y in each])
    there = np.isfinite(table)
    n = there.sum(axis=0)
    mean = np.where(there, table, 0.0).sum(axis=0) / np.maximum(n, 1)
    squares = (np.where(there, table - mean, 0.0) ** 2).sum(axis=0)
    deviation = np.where(n > 1, np.sqrt(squares / np.maximum(n - 1, 1)), np.nan)
    return Line(label, x, np.where(n > 0, mean, np.nan), deviation, len(each))
