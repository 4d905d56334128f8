"""What does fit add to a pipeline that it trains from?

    python -m benchmarks.streaming [--gigabytes=1] [--rounds=5] [--json=FILE]

Data that are never in memory as a whole: `tf.data` makes each batch of 256 rows of 784 float32 as it goes, from its number, as
if it were read. In each round these take turns, over as many batches as `--gigabytes` are:

    pipeline   the batches alone, taken one after the other in a compiled loop
    steps      as many steps of the MLP alone, by fitcore, on a few batches in memory, over and over
    fitcore    fitcore.fit on the pipeline; keras: model.fit on it

Printed is how long a fit takes beside the bare pipeline and the steps one after the other: more than 1 is what it adds. Where
cores are idle it is less, down to the longer of the two, for the pipeline reads ahead. Peak memory is the process's at the end;
it doesn't grow with the gigabytes. CPU.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf
from absl import app, flags

import fitcore
from benchmarks import about
from benchmarks.workloads import WORKLOADS

BATCH, WIDTH, CLASSES = 256, 784, 10
IN_MEMORY = 32  # batches
FITS = ("fitcore", "keras")
WAYS = ("pipeline", "steps", *FITS)


def batches_in(gigabytes: float) -> int:
    """How many batches so many gigabytes are, at least one."""
    return max(1, round(gigabytes * 1e9 / (4 * BATCH * WIDTH)))


def pipeline(batches: int) -> tf.data.Dataset:
    """Each batch made of its number."""

    def make(number: tf.Tensor) -> Any:
        seed = tf.stack([number, 0])
        x = tf.random.stateless_uniform([BATCH, WIDTH], seed)
        return x, tf.random.stateless_uniform([BATCH], seed, 0, CLASSES, tf.int64)

    numbers = tf.data.Dataset.range(batches)
    return numbers.map(make, num_parallel_calls=tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)


def ways(batches: int) -> dict[str, Callable[[], Any]]:
    """Each way to go through the data once."""
    data = pipeline(batches)
    few = min(batches, IN_MEMORY)
    x, y = next(iter(pipeline(few).unbatch().batch(few * BATCH)))
    models = {way: WORKLOADS["mlp"].build() for way in ("steps", "fitcore", "keras")}
    engine = fitcore.Engine.of_compiled(models["steps"])
    source = fitcore.make_source(x.numpy(), y.numpy(), batch_size=BATCH)

    def take_all(iterator: Any) -> tf.Tensor:
        last = tf.constant(0.0)
        for x, _ in iterator:
            last = x[0, 0]
        return last

    compiled = tf.function(take_all)  # autograph makes the loop one of TensorFlow's

    def steps() -> None:
        left = batches
        while left:
            stream = fitcore.Stream(source)
            stream.begin_epoch()
            left -= engine.train(stream, min(left, few)).steps

    return {
        "pipeline": lambda: compiled(iter(data)).numpy(),
        "steps": steps,
        "fitcore": lambda: fitcore.fit(models["fitcore"], data, verbose=0),
        "keras": lambda: models["keras"].fit(data, verbose=0),
    }


def peak_megabytes() -> float:
    """The most that this process has had in memory."""
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) / 1024 for line in file if line.startswith("VmHWM:"))


def measure(gigabytes: float, rounds: int) -> dict[str, Any]:
    """The figures."""
    keras.utils.set_random_seed(1)
    batches = batches_in(gigabytes)
    for run in ways(4).values():  # what a process pays once
        run()
    calls = ways(batches)
    for way in FITS:
        calls[way]()
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    for i in range(rounds):
        for way in WAYS[:: 1 if i % 2 == 0 else -1]:
            started = time.perf_counter()
            calls[way]()
            seconds[way].append(time.perf_counter() - started)
    medians = {way: statistics.median(each) for way, each in seconds.items()}
    ratios = {
        way: [fit / sum(alone) for fit, *alone in zip(seconds[way], seconds["pipeline"], seconds["steps"])] for way in FITS
    }
    return {
        "gigabytes": gigabytes,
        "batches": batches,
        **{f"{way}_us": 1e6 * each / batches for way, each in medians.items()},
        **{f"{way}_of_the_sum": statistics.median(each) for way, each in ratios.items()},
        "peak_mb": peak_megabytes(),
    }


def said(row: Mapping[str, Any]) -> list[str]:
    """The figures in words."""
    times = ", ".join(f"{way} {row[f'{way}_us']:.0f}" for way in WAYS)
    return [
        f"{row['gigabytes']:g} GB in {row['batches']} batches; µs per batch: {times}",
        f"of pipeline and steps one after the other fitcore takes {row['fitcore_of_the_sum']:.2f}, Keras "
        f"{row['keras_of_the_sum']:.2f}; peak memory {row['peak_mb']:.0f} MB",
    ]


def main(argv: Sequence[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {argv[1:]}")
    tf.config.set_visible_devices([], "GPU")
    print(f"Keras {keras.__version__}, TensorFlow {tf.__version__}, {os.cpu_count()} cores; {flags.FLAGS.rounds} rounds")
    row = measure(flags.FLAGS.gigabytes, flags.FLAGS.rounds)
    print("\n".join(said(row)))
    if flags.FLAGS.json:
        about.write(flags.FLAGS.json, "streaming", {"rounds": flags.FLAGS.rounds, "row": row})


if __name__ == "__main__":
    flags.DEFINE_float("gigabytes", 1.0, "How much data, in 10^9 bytes.", lower_bound=0.001)
    flags.DEFINE_integer("rounds", 5, "Rounds, each timing all.", lower_bound=1)
    flags.DEFINE_string("json", None, "Write the figures to this file.")
    app.run(main)
