"""Has fitcore become slower?

    python -m benchmarks.gate [--workload=mlp] [--rounds=7] [--device=cpu] [--record]

Measures how many times as fast as `model.fit` each tier is, side by side and interleaved as in `benchmarks.peers`, and compares
with what was recorded in benchmarks/gate.json: a ratio has fallen if its median is now below the worst of the recorded rounds.
Then the exit status is 1. `--record` records instead. Ratios carry over from machine to machine better than times do, but not
fully: the file says how many cores it was recorded on, and another number is an error.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from absl import app, flags

from benchmarks import peers

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
    found = {}
    for tier in TIERS:
        ratios = sorted(keras / ours for keras, ours in zip(seconds["keras"], seconds[tier]))
        found[f"{workload} {tier}"] = {"median": ratios[len(ratios) // 2], "low": ratios[0], "high": ratios[-1]}
    return found


def fallen(before: Ratios, now: Ratios) -> list[str]:
    """In words, which ratios have fallen by more than their spread."""
    return [
        f"{name}: {now[name]['median']:.2f} times as fast as model.fit; it was {old['median']:.2f}, {old['low']:.2f} at worst"
        for name, old in before.items()
        if name in now and now[name]["median"] < old["low"]
    ]


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {argv[1:]}")
    now: Ratios = {}
    for workload in FLAGS.workload or peers.DEFAULT:
        for name, ratio in measured(workload, FLAGS.rounds).items():
            now[name] = ratio
            print(f"{name:18s} {ratio['median']:6.2f} ({ratio['low']:.2f}-{ratio['high']:.2f})", flush=True)
    if FLAGS.record:
        RECORDED.write_text(json.dumps({"cores": os.cpu_count(), "ratios": now}, indent=1) + "\n")
        return
    recorded = json.loads(RECORDED.read_text())
    if recorded["cores"] != os.cpu_count():
        sys.exit(f"{RECORDED} was recorded on {recorded['cores']} cores; here are {os.cpu_count()}.")
    worse = fallen(recorded["ratios"], now)
    sys.exit("\n".join(worse) if worse else 0)


if __name__ == "__main__":
    app.run(main)
