"""How much cheaper is the fused form of an optimizer's update than Keras's own, in a whole training step?

    python -m benchmarks.optimizers [--workload=deep]... [--optimizer=adam] [--rounds=15] [--device=cpu] [--json=FILE]
    python -m benchmarks.optimizers --sizes          # µs per variable of each form, by the variable's size

Three copies of each workload are trained by `fitcore.fit`, in rounds, in turn, the order reversed each time:

    keras    the update by Keras's own code
    exact    fitcore's default form
    fast     numerics="fast"

Prints medians over the rounds and of each round's ratio to `keras`, with quartiles, and whether `exact` ended with the bits
of `keras`, optimizer variables included.
"""

from __future__ import annotations

import contextlib
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any
from unittest import mock

import keras
import numpy as np
import tensorflow as tf
from absl import app, flags

import fitcore
from benchmarks import about, device
from benchmarks.measuring import in_turn
from benchmarks.workloads import DEFAULT, WORKLOADS
from fitcore.optimizers import fused

OPTIMIZERS: dict[str, Callable[[], keras.optimizers.Optimizer]] = {
    "adam": lambda: keras.optimizers.Adam(1e-3),
    "adamw": lambda: keras.optimizers.AdamW(1e-3),
    "sgd": lambda: keras.optimizers.SGD(1e-2),
    "momentum": lambda: keras.optimizers.SGD(1e-2, momentum=0.9),
    "rmsprop": lambda: keras.optimizers.RMSprop(1e-3),
}
FORMS = ("keras", "exact", "fast")
SIZES = (64, 256, 1024, 4096, 16384, 65536)
BATCH = 32

FLAGS = flags.FLAGS
device.define()
flags.DEFINE_multi_enum("workload", None, list(WORKLOADS), "Which workload; several may be given. Default: six small ones.")
flags.DEFINE_enum("optimizer", "adam", list(OPTIMIZERS), "Which optimizer.")
flags.DEFINE_integer("rounds", 15, "Rounds, each timing all forms.", lower_bound=1)
flags.DEFINE_float("seconds", 0.5, "About how long each form is timed per round.", lower_bound=0.01)
flags.DEFINE_bool("sizes", False, "Time the forms of Adam's update alone, by size.")
flags.DEFINE_string("json", None, "Write the figures to this file.")


def unfused() -> Any:
    """While inside, steps are traced with Keras's own update."""
    return mock.patch("fitcore.engine.fused", return_value=contextlib.nullcontext())


def measure(name: str) -> dict[str, Any]:
    """Figures of one workload."""
    workload = WORKLOADS[name]
    models: dict[str, keras.Model] = {}

    def prepared(form: str) -> Callable[[Any], float]:
        keras.utils.set_random_seed(1)
        model = models[form] = workload.build()
        model.compile(OPTIMIZERS[FLAGS.optimizer](), model.loss)
        numerics = "fast" if form == "fast" else "exact"

        def run(data: Any) -> float:
            start = time.perf_counter()
            fitcore.fit(model, *data, batch_size=BATCH, shuffle=False, verbose=0, record=(), numerics=numerics)
            return (time.perf_counter() - start) / (len(data[0]) // BATCH)

        with unfused() if form == "keras" else contextlib.nullcontext():
            run(few)
        return run

    few = workload.data(50 * BATCH)
    runs = {form: prepared(form) for form in FORMS}
    paces = [runs[form](few) for form in FORMS]
    steps = min(max(int(FLAGS.seconds / paces[0]), 20), 3000)
    data = workload.data(steps * BATCH)
    in_turn(FORMS, lambda form: runs[form](data), 1)  # for nothing
    times = in_turn(FORMS, lambda form: 1e6 * runs[form](data), FLAGS.rounds)
    row: dict[str, Any] = {"workload": name, "optimizer": FLAGS.optimizer, "steps": steps}
    for form in FORMS:
        ratios = [k / t for k, t in zip(times["keras"], times[form])]
        row[f"{form}_us_per_step"] = statistics.median(times[form])
        row[f"{form}_ratio"] = statistics.median(ratios)
        row[f"{form}_quartiles"] = np.percentile(ratios, [25, 75]).tolist()
    keras_state, exact_state = (
        [variable.numpy().tobytes() for variable in (*models[form].variables, *models[form].optimizer.variables)]
        for form in ("keras", "exact")
    )
    return row | {"same_bits": keras_state == exact_state}


def updates(form: str, elements: int, variables: int) -> Callable[[tf.Tensor], Any]:
    """A compiled call of so many updates by Adam in one form, of so many variables of one size."""
    weights = [tf.Variable(tf.random.stateless_normal([elements], [i, 0])) for i in range(variables)]
    gradients = [tf.Variable(tf.random.stateless_normal([elements], [i, 1])) for i in range(variables)]
    optimizer = keras.optimizers.Adam()
    optimizer.build(weights)

    def update(i: tf.Tensor) -> tf.Tensor:
        values = [gradient.read_value() for gradient in gradients]
        fused.apply_forms(optimizer, {form: list(zip(values, weights))}, optimizer.learning_rate)
        optimizer.iterations.assign_add(1)
        return i + 1

    return tf.function(lambda count: tf.while_loop(lambda i: i < count, update, [tf.constant(0)]), autograph=False)


def measure_size(elements: int, variables: int = 20) -> dict[str, Any]:
    """µs per variable of Adam's update alone, in each form, for variables of this size."""
    calls = {form: updates(form, elements, variables) for form in ("keras", "vector", "kernel", "fast")}
    for call in calls.values():
        call(tf.constant(5))

    def timed(form: str) -> float:
        start = time.perf_counter()
        calls[form](tf.constant(50))
        return 1e6 * (time.perf_counter() - start) / 50 / variables

    times = in_turn(list(calls), timed, FLAGS.rounds)
    return {"elements": elements} | {f"{form}_us": statistics.median(values) for form, values in times.items()}


def main(argv: Sequence[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {argv[1:]}")
    where = device.use()
    print(f"{about.line(where)}, batch {BATCH}, {FLAGS.rounds} rounds")
    rows = []
    if FLAGS.sizes:
        print("µs per variable of Adam's update alone, medians")
        print(f"{'elements':>9s}{'keras':>9s}{'vector':>9s}{'kernel':>9s}{'fast':>9s}", flush=True)
        for elements in SIZES:
            rows.append(row := measure_size(elements))
            print(f"{elements:9d}" + "".join(f"{row[f'{form}_us']:9.1f}" for form in ("keras", "vector", "kernel", "fast")))
    else:
        print(f"{FLAGS.optimizer}: µs per step, medians; times as fast as Keras's own update, median and quartiles")
        print(f"{'workload':12s}{'keras':>8s}{'exact':>8s}{'fast':>8s}   {'exact':18s} {'fast':18s} same bits", flush=True)
        for name in FLAGS.workload or DEFAULT:
            rows.append(row := measure(name))
            line = f"{name:12s}" + "".join(f"{row[f'{form}_us_per_step']:8.0f}" for form in FORMS) + "  "
            for form in FORMS[1:]:
                low, high = row[f"{form}_quartiles"]
                line += f" {row[f'{form}_ratio']:5.2f}x ({low:.2f}-{high:.2f})"
            print(line + ("  yes" if row["same_bits"] else "  NO"), flush=True)
    if FLAGS.json:
        about.write(FLAGS.json, "optimizers", {"rows": rows}, where)
    if not all(row.get("same_bits", True) for row in rows):
        sys.exit("The exact form did not give the bits of Keras's own update.")


if __name__ == "__main__":
    app.run(main)
