"""How does the cost of a step grow?

    python -m benchmarks.growth [--axis=batch] [--numerics=exact] [--rounds=3] [--json=FILE]

An MLP on 64 numbers, hidden layer of 64, batch 32, Adam, and along each axis one thing that grows, the rest as it is:

    batch       rows in a batch
    parameters  units of the hidden layer
    layers      hidden layers
    rows        rows of the data, a number each, of which as many steps are made
    hooks       rules that look at the loss after each step, in the loop
    records     values recorded at each step

From fits of two lengths come a step's cost, without what a fit costs at its start, and the start, in which a longer pass is
shuffled. All sizes of an axis take turns; medians over the rounds. The exponent b of cost ~ size**b is the slope of a line
through the logarithms: 0 is no growth, 1 is in proportion; "at the end" is the slope between the two largest. CPU.
"""

from __future__ import annotations

import math
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from absl import app, flags

import fitcore
from benchmarks import about


@dataclass(frozen=True)
class Sizes:
    """What a fit is made of."""

    batch: int = 32
    units: int = 64
    layers: int = 1
    inputs: int = 64
    rows: int | None = None  # as many as the steps need
    hooks: int = 0
    records: int = 0


@dataclass(frozen=True)
class Axis:
    """Something that grows.

    Attributes:
      sizes: of it.
      made: what is made of one of them.
      steps: of the two fits.
    """

    sizes: tuple[int, ...]
    made: Callable[[int], Sizes]
    steps: tuple[int, int] = (100, 500)


AXES: Mapping[str, Axis] = {
    "batch": Axis((1, 8, 64, 512, 2048), lambda n: Sizes(batch=n)),
    "parameters": Axis((16, 64, 256, 1024, 4096), lambda n: Sizes(units=n)),
    "layers": Axis((1, 4, 16, 64), lambda n: Sizes(layers=n)),
    "rows": Axis((1_000, 10_000, 100_000, 1_000_000, 10_000_000), lambda n: Sizes(rows=n, inputs=1), (500, 8000)),
    "hooks": Axis((1, 2, 4, 8, 16), lambda n: Sizes(hooks=n)),
    "records": Axis((1, 4, 16, 64), lambda n: Sizes(records=n)),
}


@dataclass(frozen=True)
class Below:
    """A rule that never stops; each number makes another one."""

    number: int

    def start(self) -> dict[str, float]:
        return {"below": 0.0}

    def decide(self, state: Any, value: Any) -> Any:
        below = state["below"] + tf.cast(value < -1.0 - self.number, tf.float64)
        return {"below": below}, below > 0

    def reason(self, state: Any, value: Any) -> str:
        return "a loss below nothing"


def fits(sizes: Sizes, most: int, numerics: str) -> Callable[[int], float]:
    """(steps, at most `most`) -> seconds of a fit that makes so many."""
    hidden = [keras.layers.Dense(sizes.units, activation="relu") for _ in range(sizes.layers)]
    model = keras.Sequential([keras.Input((sizes.inputs,)), *hidden, keras.layers.Dense(1)])
    model.compile("adam", "mse")
    rows = sizes.rows or most * sizes.batch
    rng = np.random.default_rng(0)
    x, y = rng.random((rows, sizes.inputs), dtype=np.float32), rng.random((rows, 1), dtype=np.float32)
    record = {f"step/value_{i}": (lambda seen, i=i: seen.loss * float(i)) for i in range(sizes.records)}
    hooks = [fitcore.StopOn(Below(i), "step/loss") for i in range(sizes.hooks)]

    def fit(steps: int) -> float:
        arguments: dict[str, Any] = {"record": record or None, "hooks": [*hooks, fitcore.StopAfter(steps=steps)]}
        epochs = -(-steps // -(-rows // sizes.batch))
        started = time.perf_counter()
        fitcore.fit(model, x, y, batch_size=sizes.batch, epochs=epochs, verbose=0, numerics=numerics, **arguments)
        return time.perf_counter() - started

    return fit


def exponent(sizes: Sequence[float], costs: Sequence[float]) -> float:
    """b of the least-squares line log(cost) = a + b log(size)."""
    return statistics.linear_regression([math.log(size) for size in sizes], [math.log(cost) for cost in costs]).slope


def step_and_start(steps: tuple[int, int], seconds: tuple[float, float]) -> tuple[float, float]:
    """(seconds of a step, of a fit's start), from two fits of so many steps each."""
    step = (seconds[1] - seconds[0]) / (steps[1] - steps[0])
    return step, seconds[0] - steps[0] * step


def measure(name: str, numerics: str, rounds: int) -> dict[str, Any]:
    """Figures of one axis; an exponent is NaN where a step's cost is lost in what a fit's start costs."""
    axis = AXES[name]
    short, long = axis.steps
    made = {size: fits(axis.made(size), long, numerics) for size in axis.sizes}
    for fit in made.values():  # traces
        fit(short)
        fit(long)
    seconds: dict[int, list[tuple[float, float]]] = {size: [] for size in axis.sizes}
    for i in range(rounds):
        for size in axis.sizes[:: 1 if i % 2 == 0 else -1]:
            seconds[size].append((made[size](short), made[size](long)))
    keras.backend.clear_session()
    medians = []
    for size in axis.sizes:
        each = [statistics.median(times) for times in zip(*seconds[size])]
        medians.append(step_and_start(axis.steps, (each[0], each[1])))
    steps = [step for step, _ in medians]
    known = min(steps) > 0
    return {
        "axis": name,
        "sizes": list(axis.sizes),
        "us_per_step": [1e6 * step for step in steps],
        "ms_at_start": [1e3 * start for _, start in medians],
        "exponent": exponent(axis.sizes, steps) if known else math.nan,
        "at_the_end": exponent(axis.sizes[-2:], steps[-2:]) if known else math.nan,
    }


def cells(row: Mapping[str, Any]) -> list[str]:
    """A row of the table."""
    costs = ", ".join(f"{size:g}: {cost:.0f}" for size, cost in zip(row["sizes"], row["us_per_step"]))
    starts = ", ".join(f"{start:.0f}" for start in row["ms_at_start"])
    return [row["axis"], f"{row['exponent']:.2f}", f"{row['at_the_end']:.2f}", costs, starts]


def main(argv: Sequence[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {argv[1:]}")
    tf.config.set_visible_devices([], "GPU")
    print(f"Keras {keras.__version__}, TensorFlow {tf.__version__}, {os.cpu_count()} cores, {flags.FLAGS.numerics}")
    print(f"{'axis':12s}{'exponent':>9s}{'at the end':>12s}  µs per step by size; ms at a fit's start", flush=True)
    rows = []
    for name in flags.FLAGS.axis or AXES:
        rows.append(row := measure(name, flags.FLAGS.numerics, flags.FLAGS.rounds))
        first, all_of_it, end, costs, starts = cells(row)
        print(f"{first:12s}{all_of_it:>9s}{end:>12s}  {costs}; {starts}", flush=True)
    if flags.FLAGS.json:
        about.write(flags.FLAGS.json, "growth", {"numerics": flags.FLAGS.numerics, "rows": rows})


if __name__ == "__main__":
    flags.DEFINE_multi_enum("axis", None, list(AXES), "Along which axis; may be given several times. Default: all.")
    flags.DEFINE_enum("numerics", "exact", ["exact", "fast"], "Which tier.")
    flags.DEFINE_integer("rounds", 3, "Rounds, each timing all sizes.", lower_bound=1)
    flags.DEFINE_string("json", None, "Write the figures to this file.")
    app.run(main)
