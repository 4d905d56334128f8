"""What saving costs: µs per step without it and with it, every 100 steps.

    python -m benchmarks.checkpoint_overhead [--workload=mlp] [--device=cpu] [--every=100] [--rounds=11]
                                             [--directory=DIR] [--memory]

In each round both train a copy of the same model, one after the other; the order changes from round to round. Printed are
medians over rounds, and the median of the rounds' ratios with its 95 % interval. All that a fit takes is timed, so what it
does once with a checkpoint is in it too: the digest of its data, and the last checkpoint. How long a checkpoint takes to
write depends on the disk (--directory): one that is due waits for the one before.
`--memory` adds the peak resident memory of a process that trains a model of 128 MB of state, in copies of that state.
A target is met if the median is within it; "maybe": the interval's other end is not.
"""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import tensorflow as tf
from absl import app, flags

import fitcore
from benchmarks import device
from benchmarks.measuring import interval_of_median
from benchmarks.workloads import WORKLOADS

NAMES = ("mlp", "cnn")
WAYS = ("plain", "saving")
BATCH = 32
SECONDS = 3.0  # of a timed fit, about
MOST = 1.05  # times as long with checkpoints
COPIES = 1.1  # of the state, at most, in more memory

FLAGS = flags.FLAGS


def fit(way: str, model: keras.Model, x: Any, y: Any, batch: int = BATCH, epochs: int = 1) -> float:
    """Train; returns the seconds it took."""
    with tempfile.TemporaryDirectory(dir=FLAGS.directory) as directory:
        start = time.perf_counter()
        checkpoint = fitcore.Checkpoint(directory, every=f"{FLAGS.every} steps") if way == "saving" else None
        fitcore.fit(model, x, y, batch_size=batch, epochs=epochs, verbose=0, checkpoint=checkpoint)
        return time.perf_counter() - start


def measure(name: str, rounds: int) -> dict[str, Any]:
    """Figures of one workload."""
    workload = WORKLOADS[name]
    models: dict[str, keras.Model] = {}
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    for way in WAYS:
        keras.utils.set_random_seed(1)
        models[way] = workload.build()
        for rows in (4 * BATCH, 300 * BATCH):
            pace = fit(way, models[way], *workload.data(rows)) / rows * BATCH
    steps = int(max(SECONDS / pace, 2 * FLAGS.every))
    x, y = workload.data(steps * BATCH)
    for i in range(rounds):
        for way in WAYS if i % 2 else WAYS[::-1]:
            seconds[way].append(fit(way, models[way], x, y) / steps)
    values = [[variable.numpy() for variable in models[way].variables] for way in WAYS]
    ratios = [saving / plain for plain, saving in zip(*(seconds[way] for way in WAYS))]
    keras.backend.clear_session()
    return {
        "identical": all(map(np.array_equal, *values)),
        "steps": steps,
        **{way: 1e6 * statistics.median(seconds[way]) for way in WAYS},
        "cost": statistics.median(ratios),
        "interval": interval_of_median(ratios),
    }


def train_large(way: str) -> None:
    """Train 16 million weights with momentum, and print the peak resident memory in MB."""
    model = keras.Sequential([keras.Input((4096,)), keras.layers.Dense(4096), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(1e-4, momentum=0.9), "mse")
    x = np.ones((64, 4096), np.float32)
    fit(way, model, x, x[:, :1], batch=4, epochs=2)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def peak_memory(way: str) -> float:
    command = [sys.executable, "-m", "benchmarks.checkpoint_overhead", f"--only={way}", "--every=4"]
    command += [f"--directory={FLAGS.directory}"] if FLAGS.directory else []
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {argv[1:]}")
    device.use()
    if FLAGS.only:
        train_large(FLAGS.only)
        return
    print(f"Keras {keras.__version__}, TensorFlow {tf.__version__}, {os.cpu_count()} cores; medians of {FLAGS.rounds} rounds")
    print(f"{'workload':9s} {'steps':>6s} {'plain µs':>9s} {'saving µs':>9s} {'cost':>6s} {'95 %':>11s}  same bits  target")
    missed = False
    for name in FLAGS.workload or NAMES:
        row = measure(name, FLAGS.rounds)
        low, high = row["interval"]
        met = row["identical"] and row["cost"] <= MOST
        missed |= not met
        verdict = "MISSED" if not met else "met" if high <= MOST else "met, maybe"
        line = f"{name:9s} {row['steps']:6d} {row['plain']:9.0f} {row['saving']:9.0f} {row['cost']:6.3f} {low:5.3f}-{high:5.3f}"
        print(f"{line}  {'yes' if row['identical'] else 'NO':9s}  {verdict}", flush=True)
    if FLAGS.memory:
        state = (4096 * 4097 + 4097) * 4 * 2 / 2**20
        peak = {way: peak_memory(way) for way in WAYS}
        copies = (peak["saving"] - peak["plain"]) / state
        missed |= copies > COPIES
        words = f"peak {peak['plain']:.0f} MB without, {peak['saving']:.0f} MB with: {copies:.2f} copies of the state more"
        print(f"{state:.0f} MB of state: {words}, {'met' if copies <= COPIES else 'MISSED'}")
    sys.exit(missed)


if __name__ == "__main__":
    # Defined here, not on import: absl refuses two modules that define the same flag.
    device.define()
    flags.DEFINE_multi_enum("workload", None, list(NAMES), "Which workload; may be given several times. Default: both.")
    flags.DEFINE_integer("every", 100, "Steps between two checkpoints.", lower_bound=1)
    flags.DEFINE_integer("rounds", 11, "Rounds, each timing both.", lower_bound=1)
    flags.DEFINE_string("directory", None, "Folder on the disk to save to. Default: the one for temporary files.")
    flags.DEFINE_bool("memory", False, "Also measure peak memory.")
    flags.DEFINE_enum("only", None, list(WAYS), "For --memory: train the large model this way, print the peak in MB.")
    app.run(main)
