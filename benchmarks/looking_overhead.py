"""What looking costs: µs per step without it, and the ratio of each way of looking to that.

    python -m benchmarks.looking_overhead [--workload=mlp] [--device=cpu] [--rounds=31]

    recording    the values that `fitcore.TensorBoard` writes, recorded and not written
    points       `fitcore.TensorBoard`, four points per step
    histograms   the same, with histograms and update-to-weight ratios every 1000 steps
    progress     `fitcore.Progress`: a living line if this is started on a terminal, as by script -qc "..."

In each round all train a copy of the same model, one after the other; the order is reversed from round to round, and only times
of the same round are compared. Printed are medians over rounds, and the medians of the rounds' ratios with 95 % intervals. All
that a fit takes is timed. Two models that are trained in the same way may differ by 1 or 2 % throughout, by where their memory
lies: so far these ratios tell nothing. The target is for points: writing them costs 3 % of what recording them takes anyway, at
most; it is met if the median is within it; "maybe": the interval's other end is not.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
from absl import app, flags

import fitcore
from benchmarks import about, device
from benchmarks.measuring import in_turn, interval_of_median, verdict
from benchmarks.workloads import WORKLOADS

NAMES = ("mlp", "cnn")
STEP = ("step/loss", "step/learning_rate", "step/gradient_norm", "loss")
WAYS = ("plain", "recording", "points", "histograms", "progress")
BATCH = 32
SECONDS = 0.4  # of a timed fit, about: a shared machine's speed drifts within seconds
MOST = 1.03  # times as long with points as with recording

FLAGS = flags.FLAGS


def hooks_of(way: str, directory: str) -> Sequence[fitcore.Hook]:
    """New hooks that look in this way."""
    folder = os.path.join(directory, way)
    match way:
        case "points":
            return [fitcore.TensorBoard(folder)]
        case "histograms":
            return [fitcore.TensorBoard(folder, histograms=1000)]
        case "progress":
            return [fitcore.Progress()]
    return ()


def measure(name: str, rounds: int, directory: str) -> dict[str, Any]:
    """Figures of one workload."""
    workload = WORKLOADS[name]
    models: dict[str, keras.Model] = {}
    hooks = {way: hooks_of(way, directory) for way in WAYS}

    def fit(way: str, x: Any, y: Any) -> float:
        start = time.perf_counter()
        record = STEP if way == "recording" else None
        fitcore.fit(models[way], x, y, batch_size=BATCH, verbose=0, hooks=hooks[way], record=record)
        return time.perf_counter() - start

    for way in WAYS:
        keras.utils.set_random_seed(1)
        models[way] = workload.build()
        for rows in (4 * BATCH, 300 * BATCH):
            pace = fit(way, *workload.data(rows)) / rows * BATCH
    steps = int(SECONDS / pace)
    x, y = workload.data(steps * BATCH)
    seconds = in_turn(WAYS, lambda way: fit(way, x, y) / steps, rounds)
    values = [[variable.numpy() for variable in models[way].variables] for way in WAYS]
    keras.backend.clear_session()
    over = {"recording": "plain", "points": "recording", "histograms": "points", "progress": "plain"}
    ratios = {way: [mine / base for mine, base in zip(seconds[way], seconds[other])] for way, other in over.items()}
    return {
        "identical": all(all(map(np.array_equal, values[0], other)) for other in values[1:]),
        "steps": steps,
        "plain": 1e6 * statistics.median(seconds["plain"]),
        "ratios": {way: (statistics.median(each), *interval_of_median(each)) for way, each in ratios.items()},
    }


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {argv[1:]}")
    print(f"{about.line(device.use())}; medians of {FLAGS.rounds} rounds")
    missed = False
    for name in FLAGS.workload or NAMES:
        with tempfile.TemporaryDirectory() as directory:
            row = measure(name, FLAGS.rounds, directory)
        median, _, high = row["ratios"]["points"]
        met = row["identical"] and median <= MOST
        missed |= not met
        print(f"{name}: {row['plain']:.0f} µs per step plain, {row['steps']} steps; the same bits: {row['identical']}")
        for way, (middle, low, high_end) in row["ratios"].items():
            print(f"  {way:11s} {middle:6.3f}, 95 % {low:.3f}-{high_end:.3f}")
        print(f"  points at most {MOST}: {verdict(met, high <= MOST)}", flush=True)
    sys.exit(missed)


if __name__ == "__main__":
    # Defined here, not on import: absl refuses two modules that define the same flag.
    device.define()
    flags.DEFINE_multi_enum("workload", None, list(NAMES), "Which workload; may be given several times. Default: both.")
    flags.DEFINE_integer("rounds", 31, "Rounds, each timing all ways.", lower_bound=1)
    app.run(main)
