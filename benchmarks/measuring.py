"""What benchmarks measure with: several ways in turn, intervals, a process's memory."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, TypeVar

Way = TypeVar("Way", bound=Hashable)
T = TypeVar("T")


def in_turn(ways: Sequence[Way], run: Callable[[Way], T], rounds: int) -> dict[Way, list[T]]:
    """What `run` returns of each way in each round, in which all take their turn; the order is reversed from round to round.

    A shared machine's speed drifts within seconds, so only values of the same round should be compared.
    """
    values: dict[Way, list[T]] = {way: [] for way in ways}
    for i in range(rounds):
        for way in ways[:: 1 if i % 2 == 0 else -1]:
            values[way].append(run(way))
    return values


def interval_of_median(values: Sequence[float]) -> tuple[float, float]:
    """An interval that holds the median of the values' distribution with at least 95 % confidence, from order statistics."""
    n, below, rank = len(values), 0.0, 0
    while (below := below + math.comb(n, rank) / 2**n) <= 0.025:  # chance that `rank` values or fewer lie below it
        rank += 1
    return sorted(values)[max(rank - 1, 0)], sorted(values)[min(n - rank, n - 1)]


def verdict(met: bool, certain: bool) -> str:
    """Whether a target is met: by the median, and by the interval's other end too."""
    return "MISSED" if not met else "met" if certain else "met, maybe"


def memory_megabytes(line: str) -> float:
    """A line of /proc/self/status: VmHWM, the most that this process has had in memory, VmRSS, what it has, VmData, ...

    Not getrusage's: a child's ru_maxrss begins at what its parent held when it was started.
    """
    with open("/proc/self/status") as file:
        return next(int(found.split()[1]) / 1024 for found in file if found.startswith(f"{line}:"))


def said_by(command: str, *arguments: str, environment: Mapping[str, str] | None = None) -> Any:
    """What `python -m benchmarks.COMMAND` with these arguments prints as JSON in its last line.

    Raises:
      RuntimeError: it failed.
    """
    ended = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{command}", *arguments],
        capture_output=True,
        text=True,
        env=environment or os.environ,
    )
    if ended.returncode:
        raise RuntimeError(f"benchmarks.{command} {' '.join(arguments)} ended with {ended.returncode}:\n{ended.stderr[-2000:]}")
    return json.loads(ended.stdout.splitlines()[-1])
