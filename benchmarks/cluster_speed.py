"""How fast is `fitcore.fit` beside `model.fit` over two processes?

    python -m fitcore.cluster --workers=2 -m benchmarks.cluster_speed [--rounds=3] [--steps=300]

Both under MultiWorkerMirroredStrategy, on a dropout MLP and a small CNN, `model.fit` in the way that it works there
(benchmarks/parity/cluster.py). In each round both train a fresh copy from the same seed, in turn, first one then the other
first: ten steps, which are not timed, then one epoch of --steps, which is. Medians over the rounds, and the spread of their
ratios. The two must end in the same bits, or the timing is void. Batch 32, 16 rows for each worker.
"""

from __future__ import annotations

import statistics
import sys
import time
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from absl import app, flags
from keras import layers

import fitcore
from benchmarks.parity.cluster import line, made, multiworker
from benchmarks.parity.cluster_worker import Unpatched
from fitcore.cluster import role

BATCH = 32


def mlp() -> tuple[Any, Any]:
    body = (layers.Flatten(), layers.Dense(128, activation="relu"), layers.Dropout(0.2), layers.Dense(10, activation="softmax"))
    return line(*body, shape=(28, 28, 1))


def cnn() -> tuple[Any, Any]:
    body = []
    for filters in (16, 32):
        body += [layers.Conv2D(filters, 3, strides=2), layers.BatchNormalization(), layers.ReLU()]
    return line(*body, layers.Flatten(), layers.Dense(10, activation="softmax"), shape=(28, 28, 1))


def one_round(graph: Any, by: Any, steps: int) -> tuple[float, list[bytes]]:
    """(seconds per step, all bits) of a fresh model."""
    keras.utils.clear_session()
    keras.utils.set_random_seed(1)
    model = made(graph, by is Unpatched, loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    random = np.random.default_rng(0)
    x, y = random.random((steps * BATCH, 28, 28, 1), np.float32), random.integers(0, 10, steps * BATCH)
    by.fit(model, x[: 10 * BATCH], y[: 10 * BATCH], batch_size=BATCH, verbose=0)
    start = time.perf_counter()
    by.fit(model, x, y, batch_size=BATCH, verbose=0)
    seconds = (time.perf_counter() - start) / steps
    return seconds, [each.numpy().tobytes() for each in (*model.variables, *model.optimizer.variables)]


def main(argv: list[str]) -> None:
    tf.get_logger().setLevel("WARNING")  # not a line for each sum over workers that is traced
    multiworker()  # before TensorFlow has run anything
    same = True
    for graph in (mlp, cnn):
        seconds: dict[Any, list[float]] = {Unpatched: [], fitcore: []}
        for i in range(flags.FLAGS.rounds):
            bits = {}
            for by in list(seconds)[:: 1 if i % 2 == 0 else -1]:
                each, bits[by] = one_round(graph, by, flags.FLAGS.steps)
                seconds[by].append(each)
            same &= bits[Unpatched] == bits[fitcore]
        if role.is_chief():
            ratios = sorted(theirs / ours for theirs, ours in zip(seconds[Unpatched], seconds[fitcore]))
            theirs, ours = (1e6 * statistics.median(seconds[by]) for by in (Unpatched, fitcore))
            print(
                f"{graph.__name__}: model.fit {theirs:.0f} µs per step, fitcore {ours:.0f}: "
                f"{statistics.median(ratios):.2f} times as fast ({ratios[0]:.2f} to {ratios[-1]:.2f}), "
                f"{'same bits' if same else 'OTHER BITS'}",
                flush=True,
            )
    sys.exit(not same)


if __name__ == "__main__":
    flags.DEFINE_integer("rounds", 3, "Rounds, each timing both.", lower_bound=1)
    flags.DEFINE_integer("steps", 300, "Steps in the timed epoch.", lower_bound=1)
    app.run(main)
