"""What does fit add to a pipeline that it trains from, on data that don't fit into the memory it may have?

    python -m benchmarks.streaming [--gigabytes=2] [--rounds=5] [--device=cpu] [--directory=DIR] [--json=FILE]

Writes so many gigabytes of TFRecords to disk, a record for each row of 784 float32 and its class, and reads them by `tf.data`
in batches of 256, in one thread, which reads ahead. Before anything is measured the process is forbidden (RLIMIT_DATA) to hold
more than a quarter of them beside what it holds already, TensorFlow and a few small fits; that an array of half of them is
then refused is checked. What the kernel keeps of files in its own memory doesn't count: the disk is not what is measured. Two
models: `linear`, a dense layer of 10 classes, whose step is far shorter than reading its batch, and `mlp`, the workload of
that name, whose step isn't. In each round these take turns, over all batches:

    pipeline   the batches alone, taken one after the other in a compiled loop
    steps      as many steps of the model alone, by fitcore, on a few batches in memory, over and over
    fitcore    fitcore.fit on the pipeline; keras: model.fit on it

Printed is how long a fit takes beside the bare pipeline, and beside the pipeline and the steps one after the other, medians of
the rounds' ratios. Where cores are idle a fit takes as long as the longer of the two, for the pipeline reads ahead; where both
keep them busy, at worst as long as both. So the target, at most 5 % added, is held against the pipeline, then against both.
"""

from __future__ import annotations

import contextlib
import os
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from absl import app, flags

import fitcore
from benchmarks import about, device
from benchmarks.measuring import in_turn, memory_megabytes
from benchmarks.workloads import WORKLOADS

BATCH, WIDTH, CLASSES = 256, 784, 10
BATCH_BYTES = 4 * BATCH * (WIDTH + 1)
FILES = 4
IN_MEMORY = 16  # batches
AHEAD = 8  # batches; tf.data.AUTOTUNE goes up to 512 of them, where it takes the machine's memory for its own
SHARE = 0.25  # of the data that the process may hold
MOST = 1.05  # times as long as the bare pipeline and the bare steps
FITS = ("fitcore", "keras")
WAYS = ("pipeline", "steps", *FITS)


def linear() -> keras.Model:
    """A dense layer of 10 classes."""
    model = keras.Sequential([keras.Input((WIDTH,)), keras.layers.Dense(CLASSES, activation="softmax")])
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


MODELS: Mapping[str, Callable[[], keras.Model]] = {"linear": linear, "mlp": WORKLOADS["mlp"].build}


def batches_in(gigabytes: float) -> int:
    """How many batches so many gigabytes are: at least one for each file."""
    return max(FILES, round(gigabytes * 1e9 / BATCH_BYTES))


def write(directory: str, batches: int) -> list[str]:
    """Write so many batches, shared out among files whose paths are returned; each batch is made of its number."""
    paths = [os.path.join(directory, f"{i}.tfrecord") for i in range(FILES)]
    for i, path in enumerate(paths):
        with tf.io.TFRecordWriter(path) as writer:
            for number in range(i, batches, FILES):
                rng = np.random.default_rng(number)
                rows = rng.random((BATCH, WIDTH + 1), dtype=np.float32)
                rows[:, -1] = rng.integers(0, CLASSES, BATCH)
                for row in rows:
                    writer.write(row.tobytes())
    return paths


def pipeline(paths: Sequence[str], batches: int) -> tf.data.Dataset:
    """So many batches, x [256, 784] float32 and y [256] int32, as they stand in the files."""

    def parsed(records: tf.Tensor) -> Any:
        rows = tf.reshape(tf.io.decode_raw(records, tf.float32), [BATCH, WIDTH + 1])
        return rows[:, :-1], tf.cast(rows[:, -1], tf.int32)

    data = tf.data.TFRecordDataset(list(paths)).batch(BATCH, drop_remainder=True).map(parsed)
    return data.apply(tf.data.experimental.assert_cardinality(batches)).prefetch(AHEAD)


def taken(data: tf.data.Dataset) -> Callable[[], int]:
    """Goes through the data in a compiled loop; returns the number of batches."""

    def take_all(iterator: Any) -> tf.Tensor:
        number = tf.constant(0)
        for _ in iterator:
            number += 1
        return number

    compiled = tf.function(take_all)  # autograph makes the loop one of TensorFlow's
    return lambda: int(compiled(iter(data)))


def ways(name: str, data: tf.data.Dataset, batches: int) -> dict[str, Callable[[], Any]]:
    """Each way to go through the data once with a model."""
    few = min(batches, IN_MEMORY)
    x, y = next(iter(data.unbatch().batch(few * BATCH)))
    models = {way: MODELS[name]() for way in ("steps", *FITS)}
    engine = fitcore.Engine.of_compiled(models["steps"])
    source = fitcore.make_source(x.numpy(), y.numpy(), batch_size=BATCH)

    def steps() -> None:
        left = batches
        while left:
            stream = fitcore.Stream(source)
            stream.begin_epoch()
            left -= engine.train(stream, min(left, few)).steps

    return {
        "pipeline": taken(data),
        "steps": steps,
        "fitcore": lambda: fitcore.fit(models["fitcore"], data, verbose=0),
        "keras": lambda: models["keras"].fit(data, verbose=0),
    }


@contextlib.contextmanager
def at_most(extra: int) -> Iterator[None]:
    """While inside, this process may have so many bytes of data (VmData) more than at the beginning.

    Raises:
      RuntimeError: twice as many are granted all the same.
    """
    before = resource.getrlimit(resource.RLIMIT_DATA)
    allowed = int(memory_megabytes("VmData") * 2**20) + extra
    resource.setrlimit(resource.RLIMIT_DATA, (allowed, before[1]))
    try:
        try:
            np.empty(2 * extra, np.uint8)
        except MemoryError:
            yield
        else:
            raise RuntimeError(f"{2 * extra} bytes more were granted, where {extra} are the limit")
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)


def measure(name: str, data: tf.data.Dataset, batches: int, rounds: int) -> dict[str, Any]:
    """Figures of one model."""
    keras.utils.set_random_seed(1)
    calls = ways(name, data, batches)
    for way in calls:
        calls[way]()

    def timed(way: str) -> float:
        started = time.perf_counter()
        calls[way]()
        return time.perf_counter() - started

    seconds = in_turn(WAYS, timed, rounds)
    ratios = {}
    for fit in FITS:
        ratios[f"{fit}_of_the_pipeline"] = [a / b for a, b in zip(seconds[fit], seconds["pipeline"])]
        ratios[f"{fit}_of_the_sum"] = [a / (b + c) for a, b, c in zip(seconds[fit], seconds["pipeline"], seconds["steps"])]
    return {
        "model": name,
        **{f"{way}_us": 1e6 * statistics.median(each) / batches for way, each in seconds.items()},
        **{way: statistics.median(each) for way, each in ratios.items()},
    }


def verdict(of_the_sum: float, of_the_pipeline: float) -> str:
    """Whether no more than 5 % were added, and to what."""
    if of_the_pipeline <= MOST:
        return "at most 5 % over the bare pipeline"
    return "at most 5 % over both alone" if of_the_sum <= MOST else "MISSED"


def said(found: Mapping[str, Any]) -> list[str]:
    """The figures in words."""
    lines = [
        f"{found['gigabytes']:g} GB in {found['batches']} batches, by a process that may hold {found['allowed_mb']:.0f} MB "
        f"more than it held after small fits; at the peak it held {found['peak_mb']:.0f} MB in all"
    ]
    for row in found["rows"]:
        times = ", ".join(f"{way} {row[f'{way}_us']:.0f}" for way in WAYS)
        fits = "; ".join(
            f"{who} takes {row[f'{fit}_of_the_pipeline']:.2f} times as long as the pipeline, "
            f"{row[f'{fit}_of_the_sum']:.2f} as both"
            for fit, who in zip(FITS, ("fitcore", "Keras"))
        )
        lines.append(
            f"{row['model']}: µs per batch: {times}. {fits}. fitcore: "
            + verdict(row["fitcore_of_the_sum"], row["fitcore_of_the_pipeline"])
        )
    return lines


def main(argv: Sequence[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {argv[1:]}")
    where = device.use()
    print(f"{about.line(where)}; {flags.FLAGS.rounds} rounds", flush=True)
    batches = batches_in(flags.FLAGS.gigabytes)
    extra = int(SHARE * batches * BATCH_BYTES)
    with tempfile.TemporaryDirectory(dir=flags.FLAGS.directory) as directory:
        few = pipeline(write(directory, FILES), FILES)
        for name in MODELS:  # what a process pays once
            for run in ways(name, few, FILES).values():
                run()
        data = pipeline(write(directory, batches), batches)
        with at_most(extra):
            rows = [measure(name, data, batches, flags.FLAGS.rounds) for name in MODELS]
    found = {"gigabytes": flags.FLAGS.gigabytes, "batches": batches, "rows": rows}
    found |= {"allowed_mb": extra / 2**20, "peak_mb": memory_megabytes("VmHWM")}
    print("\n".join(said(found)))
    if flags.FLAGS.json:
        about.write(flags.FLAGS.json, "streaming", {"rounds": flags.FLAGS.rounds, **found}, where)
    sys.exit(any(verdict(row["fitcore_of_the_sum"], row["fitcore_of_the_pipeline"]) == "MISSED" for row in rows))


if __name__ == "__main__":
    device.define()
    flags.DEFINE_float("gigabytes", 2.0, "How much data, in 10^9 bytes.", lower_bound=0.001)
    flags.DEFINE_integer("rounds", 5, "Rounds, each timing all.", lower_bound=1)
    flags.DEFINE_string("directory", None, "Folder on the disk to write to. Default: the one for temporary files.")
    flags.DEFINE_string("json", None, "Write the figures to this file.")
    app.run(main)
