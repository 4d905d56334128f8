"""What measuring the gradient noise at every step costs: µs per step without it, with it, and of `model.fit` without it.

    python -m benchmarks.noise_overhead [--workload=mlp] [--batch=32] [--examples=128] [--rounds=21] [--device=cpu]
                                        [--memory] [--json=FILE]

In each round the three train a copy of the same model each, one after the other; the order is reversed from round to round. A
shared machine's speed drifts within seconds, so rounds are short and many, and only times of the same round are compared.
Printed are medians over rounds, and the median of the rounds' ratios with its 95 % interval (from order statistics, so that
no spike counts more than another): "cost" is fitcore with measurement to fitcore without, "to fit" is fitcore with
measurement to `model.fit` without any. A target is met if the median is within it; "maybe": the interval's other end is not.
All that a fit takes is timed, the evaluation of what was recorded included; of `model.fit` only its epoch, from the first
batch on, so that its preparations don't flatter the comparison.
`--memory` adds the peak resident memory of a process that trains a model of layers without a rule (the vectorized
fallback), with and without measurement.
"""

from __future__ import annotations

import statistics
import sys
import time
from typing import Any

import keras
import numpy as np
from absl import app, flags

import fitcore
from benchmarks import about, device
from benchmarks.measuring import in_turn, interval_of_median, memory_megabytes, said_by, verdict
from benchmarks.workloads import WORKLOADS, Workload

NAMES = ("mlp", "deep", "cnn", "lstm", "transformer")
BATCHES = (32, 256)
WAYS = ("plain", "noise", "keras")
SECONDS = 0.2  # of a timed fit, about

FLAGS = flags.FLAGS
MOST_COST = {"mlp": 1.15, "deep": 1.15, "cnn": 2.0, "lstm": 2.0, "transformer": 2.0}


class Clock(keras.callbacks.Callback):
    """Times an epoch."""

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self.start = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.seconds = time.perf_counter() - self.start


def fit(way: str, model: keras.Model, x: Any, y: Any, batch: int) -> float:
    """One epoch; returns the seconds it took."""
    if way == "keras":
        clock = Clock()
        model.fit(x, y, batch_size=batch, verbose=0, callbacks=[clock])
        return clock.seconds
    start = time.perf_counter()
    noise = way == "noise" and fitcore.GradientNoise(examples=FLAGS.examples or None)
    fitcore.fit(model, x, y, batch_size=batch, verbose=0, noise=noise)
    return time.perf_counter() - start


def measure(name: str, batch: int, rounds: int) -> dict[str, Any]:
    """Figures of one workload at one batch size."""
    workload: Workload = WORKLOADS[name]
    models, variables = {}, {}
    for way in WAYS:
        keras.utils.set_random_seed(1)
        models[way] = workload.build()
        few = workload.data(4 * batch)
        for _ in range(2):
            fit(way, models[way], *few, batch)
    pace = fit("plain", models["plain"], *workload.data(16 * batch), batch) / 16
    steps = int(min(max(SECONDS / pace, 20), 2000))
    fit("noise", models["noise"], *workload.data(16 * batch), batch)
    fit("keras", models["keras"], *workload.data(16 * batch), batch)
    x, y = workload.data(steps * batch)
    seconds = in_turn(WAYS, lambda way: fit(way, models[way], x, y, batch) / steps, rounds)
    variables = {way: [variable.numpy() for variable in models[way].variables] for way in WAYS}
    identical = all(np.array_equal(p, q) for way in WAYS for p, q in zip(variables["plain"], variables[way]))
    keras.backend.clear_session()
    cost = [n / p for n, p in zip(seconds["noise"], seconds["plain"])]
    to_fit = [n / k for n, k in zip(seconds["noise"], seconds["keras"])]
    return {
        "workload": name,
        "batch": batch,
        "steps": steps,
        "identical": identical,
        **{f"{way}_us_per_step": 1e6 * statistics.median(seconds[way]) for way in WAYS},
        "cost": statistics.median(cost),
        "cost_interval": interval_of_median(cost),
        "to_fit": statistics.median(to_fit),
        "to_fit_interval": interval_of_median(to_fit),
        "met": bool(identical and statistics.median(cost) <= MOST_COST[name] and statistics.median(to_fit) <= 1.0),
        "certain": interval_of_median(cost)[1] <= MOST_COST[name] and interval_of_median(to_fit)[1] <= 1.0,
    }


def without_rules() -> tuple[keras.Model, np.ndarray, np.ndarray]:
    """A model whose layers have no rule, with 1.3 million weights, and a batch of 512 rows."""
    layers = keras.layers
    body = [layers.Conv2DTranspose(64, 3, activation="relu"), layers.Conv2DTranspose(64, 3, strides=2), layers.PReLU()]
    model = keras.Sequential([keras.Input((14, 14, 32)), *body, layers.GlobalAveragePooling2D(), layers.Dense(10)])
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    random = np.random.default_rng(0)
    return model, random.random((512, 14, 14, 32), dtype=np.float32), random.integers(0, 10, 512)


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {argv[1:]}")
    where = device.use()
    if FLAGS.only:
        model, x, y = without_rules()
        if FLAGS.only != "none":
            for _ in range(2):
                fit(FLAGS.only, model, x, y, len(x))
        print(memory_megabytes("VmHWM"))
        return
    print(f"{about.line(where)}; medians of {FLAGS.rounds} rounds")
    print(f"at most {FLAGS.examples} rows measured where that is dear" if FLAGS.examples else "every row measured")
    head = f"{'workload':12s} {'batch':>5s} {'plain µs':>9s} {'noise µs':>9s} {'fit µs':>9s}"
    print(head + f" {'cost':>6s} {'95 %':>11s} {'to fit':>7s} {'95 %':>11s}  same bits  target", flush=True)
    rows = []
    for name in FLAGS.workload or NAMES:
        for batch in map(int, FLAGS.batch or BATCHES):
            row = measure(name, batch, FLAGS.rounds)
            times = " ".join(f"{row[f'{way}_us_per_step']:9.0f}" for way in WAYS)
            cost, to_fit = ("{:.2f}-{:.2f}".format(*row[f"{key}_interval"]) for key in ("cost", "to_fit"))
            line = f"{name:12s} {batch:5d} {times} {row['cost']:6.2f} {cost:>11s} {row['to_fit']:7.2f} {to_fit:>11s}"
            print(line + f"  {'yes' if row['identical'] else 'NO':9s}  {verdict(row['met'], row['certain'])}", flush=True)
            rows.append(row)
    children = ("none", "plain", "noise") if FLAGS.memory else ()
    memory = {way: said_by("noise_overhead", f"--only={way}", f"--device={where}") for way in children}
    if memory:
        ratio = memory["noise"] / memory["plain"]
        print(f"fallback, batch 512: peak {memory['plain']:.0f} MB without, {memory['noise']:.0f} MB with: {ratio:.2f}")
    if FLAGS.json:
        found = {"examples": FLAGS.examples, "rows": rows, "memory_mb": memory}
        about.write(FLAGS.json, "noise_overhead", found, where)
    met = sum(row["met"] for row in rows)
    print(f"noise overhead {met}/{len(rows)} within target")
    sys.exit(met < len(rows))


if __name__ == "__main__":
    # Defined here, not on import: absl refuses two modules that define the same flag.
    device.define()
    flags.DEFINE_multi_enum("workload", None, list(NAMES), "Which workload; may be given several times. Default: all.")
    flags.DEFINE_multi_enum("batch", None, list(map(str, BATCHES)), "Which batch size. Default: both.")
    most = fitcore.GradientNoise().examples
    flags.DEFINE_integer(
        "examples", most, "At most so many rows per batch where measuring is dear, fitcore's default. 0: all.", 0
    )
    flags.DEFINE_integer("rounds", 21, "Rounds, each timing all three.", lower_bound=1)
    flags.DEFINE_bool("memory", False, "Also measure peak memory with the fallback.")
    flags.DEFINE_string("json", None, "Write the figures to this file.")
    flags.DEFINE_enum("only", None, ["none", "plain", "noise"], "For --memory: train once this way, print the peak in MB.")
    app.run(main)
