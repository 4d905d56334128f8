"""Has fitcore become slower?

    python -m benchmarks.gate [--workload=mlp] [--rounds=7] [--device=cpu] [--record]

Measures how many times as fast as `model.fit` each tier is, side by side and interleaved as in `benchmarks.peers`, and compares
with what was recorded in benchmarks/gate.json: a ratio has fallen if its median is now below the worst of the recorded rounds,
that is by more than its own spread. Then the exit status is 1. `--record` records instead, in place of all that was recorded.

Ratios carry over from machine to machine better than times do, but not fully: the file says on what it was recorded, and
another number of cores or another device is an error. CI doesn't run it of itself, for what else runs there would be measured
too: it is for a quiet machine, by hand or as `.ci/run gate`, before a change that may cost speed is kept; and recorded again
after one that gained some.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import app, flags

from benchmarks import about, peers

RECORDED = Path(__file__).with_name("gate.json")
TIERS = ("exact", "fast")

FLAGS = flags.FLAGS
flags.DEFINE_bool("record", False, "Write what is measured to benchmarks/gate.json.")

Ratios = dict[str, dict[str, float]]  # by "workload tier": {"median", "low", "high"} over the rounds


def measured(workload: str, rounds: int) -> Ratios:
    """How many times as fast as model.fit each tier is."""
    with peers.alive(workload, ["keras", *TIERS]) as (processes, failed):
        if failed:
            raise RuntimeError(f"{workload}: {failed}")
        seconds = peers.interleaved(processes, rounds)
    return {f"{workload} {tier}": over(seconds["keras"], seconds[tier]) for tier in TIERS}


def over(keras: Sequence[float], ours: Sequence[float]) -> dict[str, float]:
    """The ratios of the same rounds' seconds: their median, and between what they lie."""
    ratios = sorted(a / b for a, b in zip(keras, ours))
    return {"median": ratios[len(ratios) // 2], "low": ratios[0], "high": ratios[-1]}


def fallen(before: Mapping[str, Mapping[str, float]], now: Mapping[str, Mapping[str, float]]) -> list[str]:
    """In words, which ratios have fallen by more than their spread, and which were never recorded."""
    found = []
    for name, ratio in now.items():
        if name not in before:
            found.append(f"{name}: {ratio['median']:.2f} times as fast as model.fit; nothing was recorded of it")
        elif ratio["median"] < before[name]["low"]:
            was = f"it was {before[name]['median']:.2f}, {before[name]['low']:.2f} at worst"
            found.append(f"{name}: {ratio['median']:.2f} times as fast as model.fit; {was}")
    return found


def recorded(path: Path, device: str) -> dict[str, Any]:
    """What was recorded, by `about.write`.

    Raises:
      ValueError: there is nothing, or it is of another device or number of cores.
    """
    if not path.exists():
        raise ValueError(f"Nothing was recorded: there is no {path}. --record writes it.")
    found: dict[str, Any] = json.loads(path.read_text())
    was, here = (found["device"], found["cores"]), (device, os.cpu_count())
    if was != here:
        raise ValueError("{} was recorded on device {}, {} cores; here it is {}, {}.".format(path, *was, *here))
    return found


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {argv[1:]}")
    if FLAGS.device == "gpu":
        importlib.import_module("benchmarks.device").use()  # an error if there is none
    try:
        before = None if FLAGS.record else recorded(RECORDED, FLAGS.device)
    except ValueError as error:
        sys.exit(str(error))
    now: Ratios = {}
    for workload in FLAGS.workload or peers.DEFAULT:
        for name, ratio in measured(workload, FLAGS.rounds).items():
            now[name] = ratio
            print(f"{name:18s} {ratio['median']:6.2f} ({ratio['low']:.2f}-{ratio['high']:.2f})", flush=True)
    if before is None:
        about.write(RECORDED, "gate", {"rounds": FLAGS.rounds, "ratios": now}, FLAGS.device)
        print(f"Recorded in {RECORDED}")
        return
    worse = fallen(before["ratios"], now)
    sys.exit("\n".join(worse) if worse else 0)


if __name__ == "__main__":
    app.run(main)
