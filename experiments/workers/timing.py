"""A worker process that is timed: steps of fitcore's fit, and all-reduces with nothing else. measured.py starts it.

    python -m fitcore.cluster --workers=2 -m experiments.workers.timing --out=times.json --batch=40 --batch=640

Each worker keeps to one core by the scheduler's affinity mask, the cores being dealt out in turn, so that two workers on two
cores have one each and four share them. Worker 0 writes what it measured.
"""

from __future__ import annotations

import itertools
import json
import os
import time
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from absl import app, flags
from keras import layers

import fitcore
from fitcore.cluster import role

OUT = flags.DEFINE_string("out", None, "The file that worker 0 writes.", required=True)
BATCHES = flags.DEFINE_multi_integer("batch", [], "Batch sizes, of all workers together, at which fits are timed.", 1)
SIZES = flags.DEFINE_multi_integer("bytes", [], "Sizes of the all-reduces, in bytes.", 4)
HIDDEN = flags.DEFINE_integer("hidden", 64, "Hidden units.", 1)
ROUNDS = flags.DEFINE_integer("rounds", 5, "Measurements of each, in turns.", 2)
SPREAD = flags.DEFINE_integer("spread", 0, "Steps that are timed one by one, at the median batch size; 0: none.", 0)

FEWEST_STEPS, FEWEST_EXAMPLES = 40, 8192  # of a timed epoch, so that its beginning and end are small beside it
SETTLING = 10  # first steps that are left out where single ones are timed
ALL_REDUCES = 50  # in a measurement


def network(hidden: int) -> keras.Model:
    """That of experiments.noise_scale."""
    body = [layers.Flatten(), layers.Dense(hidden, activation="tanh"), layers.Dense(10)]
    model = keras.Sequential([keras.Input((28, 28)), *body])
    model.compile(keras.optimizers.SGD(0.01), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


def steps_of(batch: int) -> int:
    """How many steps a timed epoch at this batch size has."""
    return max(FEWEST_STEPS, FEWEST_EXAMPLES // batch)


class Clock(keras.callbacks.Callback):
    """Notes what the last epoch took, without what a fit does before and after: it copies the data, for one thing."""

    seconds = 0.0

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._began = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.seconds = time.perf_counter() - self._began


def timed_fit(model: keras.Model, batch: int, x: Any, y: Any) -> float:
    """Seconds per step of an epoch."""
    rows, clock = batch * steps_of(batch), Clock()
    fitcore.fit(model, x[:rows], y[:rows], batch_size=batch, verbose=0, callbacks=[clock])
    return clock.seconds / steps_of(batch)


def collectives(model: keras.Model) -> int:
    """How many sums over workers a step makes, by the program that was traced first: a step is a function there, and what is
    in none runs once a call."""
    library = fitcore.Engine.of_compiled(model).graphs()[0].as_graph_def(add_shapes=False).library
    nodes = itertools.chain.from_iterable(function.node_def for function in library.function)
    return sum(node.op.startswith("CollectiveReduce") for node in nodes)


def spread(model: keras.Model, batch: int, steps: int, x: Any, y: Any) -> list[float]:
    """Seconds of single steps, by a clock that is read inside the compiled loop at each."""
    began = float(tf.timestamp())
    x, y = (np.resize(values, (batch * steps, *values.shape[1:])) for values in (x, y))
    clock = {"clock": lambda seen: tf.timestamp() - began}
    history = fitcore.fit(model, x, y, batch_size=batch, verbose=0, record=clock)
    return np.diff(history.steps["clock"])[SETTLING:].tolist()


def all_reduce(strategy: tf.distribute.Strategy, size: int) -> Any:
    """A compiled function that sums `size` bytes over all workers, again and again."""

    def on_worker(values: tf.Tensor) -> tf.Tensor:
        here = tf.identity(values)  # on this worker's device, by which TensorFlow knows where to sum to
        return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, here)

    def again_and_again() -> tf.Tensor:
        values = tf.zeros(size // 4)
        for _ in tf.range(ALL_REDUCES):  # outside of what is run on a worker, where TensorFlow sums in no loop
            values = strategy.run(on_worker, args=(values,))
        return values[0]

    return tf.function(again_and_again)


def timed_all_reduce(function: Any) -> float:
    """Seconds of one."""
    began = time.perf_counter()
    float(function())
    return (time.perf_counter() - began) / ALL_REDUCES


def measured() -> dict[str, Any]:
    """Seconds by what was timed, one for each round."""
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    with strategy.scope():
        model = network(HIDDEN.value)
    found: dict[str, Any] = {"gradient_bytes": 4 * model.count_params()}
    random = np.random.default_rng(0)  # a step takes as long whatever it learns
    rows = max((batch * steps_of(batch) for batch in BATCHES.value), default=0)
    x, y = random.random((rows, 28, 28), np.float32), random.integers(0, 10, rows)
    sums = {size: all_reduce(strategy, size) for size in SIZES.value}
    for batch in BATCHES.value:
        timed_fit(model, batch, x, y)  # traces
    for function in sums.values():
        timed_all_reduce(function)
    if BATCHES.value:
        found["collectives"] = collectives(model)
    rounds = range(ROUNDS.value)
    steps = [{batch: timed_fit(model, batch, x, y) for batch in BATCHES.value} for _ in rounds]
    reduced = [{size: timed_all_reduce(function) for size, function in sums.items()} for _ in rounds]
    found["steps"] = {batch: [each[batch] for each in steps] for batch in BATCHES.value}
    found["all_reduce"] = {size: [each[size] for each in reduced] for size in SIZES.value}
    if SPREAD.value:
        batch = sorted(BATCHES.value)[len(BATCHES.value) // 2]
        found["spread"] = spread(model, batch, SPREAD.value, x, y)
    return found


def main(_: list[str]) -> None:
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[role.index() % len(cores)]})  # before TensorFlow makes threads, which are as many as cores
    found = measured()
    if role.is_chief():
        Path(OUT.value).write_text(json.dumps(found | {"cores": len(cores)}))


if __name__ == "__main__":
    app.run(main)
