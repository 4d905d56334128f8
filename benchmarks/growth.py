"""How does the cost of a step grow, and what a fit takes of memory?

    python -m benchmarks.growth [--axis=batch] [--numerics=exact] [--rounds=3] [--device=cpu] [--json=FILE]

An MLP on 64 numbers, hidden layer of 64, batch 32, Adam, and along each axis one thing that grows, the rest as it is:

    batch       rows in a batch
    parameters  units of the hidden layer
    layers      hidden layers
    rows        rows of the data, a number each, of which as many steps are made
    hooks       rules that look at the loss after each step, in the loop
    records     values recorded at each step

From fits of two lengths come a step's cost, without what a fit costs at its start, and the start, in which a longer pass is
shuffled. All sizes of an axis take turns; medians over the rounds. The exponent b of cost ~ size**b is the slope of a line
through the logarithms: 0 is no growth, 1 is in proportion; "at the end" is the slope between the two largest.

Memory is the process's (with a GPU, the host's), by a child process for each size that has made model and data and one fit of
the smallest size: what it holds at the peak of its first fit beyond what it held before, so copies of the data, gradients, the
optimizer's variables and what tracing takes; and, kept, what it still holds afterwards. Its exponent is the slope between the
two largest sizes, and not said where either is below 16 MB, where it would be that of the noise.
"""

from __future__ import annotations

import gc
import json
import math
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
from benchmarks import about, device
from benchmarks.measuring import in_turn, memory_megabytes, said_by

SURE = 16.0  # megabytes from which on memory's growth is told from noise


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


def seconds_of(name: str, numerics: str, rounds: int) -> list[tuple[float, float]]:
    """(seconds of the short fit, of the long one) for each size of an axis, medians over the rounds."""
    axis = AXES[name]
    made = {size: fits(axis.made(size), axis.steps[1], numerics) for size in axis.sizes}
    all_fits = [(size, steps) for size in axis.sizes for steps in axis.steps]

    def run(fit: tuple[int, int]) -> float:
        return made[fit[0]](fit[1])

    in_turn(all_fits, run, 1)  # traces
    medians = {fit: statistics.median(seconds) for fit, seconds in in_turn(all_fits, run, rounds).items()}
    keras.backend.clear_session()
    return [(medians[size, axis.steps[0]], medians[size, axis.steps[1]]) for size in axis.sizes]


def memory(name: str, size: int, numerics: str) -> dict[str, float]:
    """Megabytes of one size of an axis, of the process that this runs in."""
    axis = AXES[name]
    fits(axis.made(axis.sizes[0]), axis.steps[0], numerics)(axis.steps[0])
    fit = fits(axis.made(size), axis.steps[1], numerics)
    gc.collect()
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # VmHWM, the peak, begins anew: `man proc_pid_clear_refs`
    before = memory_megabytes("VmRSS")
    fit(axis.steps[0])
    gc.collect()
    return {"peak_mb": memory_megabytes("VmHWM") - before, "kept_mb": memory_megabytes("VmRSS") - before}


def measure(name: str, numerics: str, rounds: int) -> dict[str, Any]:
    """Figures of one axis; an exponent is NaN where what grows is lost in what doesn't."""
    axis = AXES[name]
    costs = [step_and_start(axis.steps, seconds) for seconds in seconds_of(name, numerics, rounds)]
    steps = [step for step, _ in costs]
    known = min(steps) > 0
    arguments = (f"--axis={name}", f"--numerics={numerics}", f"--device={flags.FLAGS.device}")
    held = [said_by("growth", f"--size={size}", *arguments) for size in axis.sizes]
    peaks = [each["peak_mb"] for each in held]
    return {
        "axis": name,
        "sizes": list(axis.sizes),
        "us_per_step": [1e6 * step for step in steps],
        "ms_at_start": [1e3 * start for _, start in costs],
        "exponent": exponent(axis.sizes, steps) if known else math.nan,
        "at_the_end": exponent(axis.sizes[-2:], steps[-2:]) if known else math.nan,
        "peak_mb": peaks,
        "kept_mb": [each["kept_mb"] for each in held],
        "memory_at_the_end": exponent(axis.sizes[-2:], peaks[-2:]) if min(peaks[-2:]) >= SURE else math.nan,
    }


HEAD = ("axis", "exponent", "at the end", "memory's", "µs per step, by size", "ms at a fit's start", "MB at the peak (kept)")


def cells(row: Mapping[str, Any]) -> list[str]:
    """A row of the table."""
    exponents = [row["exponent"], row["at_the_end"], row["memory_at_the_end"]]
    costs = ", ".join(f"{size:g}: {cost:.0f}" for size, cost in zip(row["sizes"], row["us_per_step"]))
    starts = ", ".join(f"{start:.0f}" for start in row["ms_at_start"])
    held = ", ".join(f"{peak:.0f} ({kept:.0f})" for peak, kept in zip(row["peak_mb"], row["kept_mb"]))
    return [row["axis"], *("-" if math.isnan(each) else f"{each:.2f}" for each in exponents), costs, starts, held]


def main(argv: Sequence[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {argv[1:]}")
    where, numerics = device.use(), flags.FLAGS.numerics
    if flags.FLAGS.size:
        print(json.dumps(memory(flags.FLAGS.axis[0], flags.FLAGS.size, numerics)))
        return
    print(f"{about.line(where)}, {numerics}")
    print(f"{HEAD[0]:12s}" + "".join(f"{each:>12s}" for each in HEAD[1:4]) + f"  {'; '.join(HEAD[4:])}", flush=True)
    rows = []
    for name in flags.FLAGS.axis or AXES:
        rows.append(row := measure(name, numerics, flags.FLAGS.rounds))
        said = cells(row)
        print(f"{said[0]:12s}" + "".join(f"{each:>12s}" for each in said[1:4]) + f"  {'; '.join(said[4:])}", flush=True)
    if flags.FLAGS.json:
        about.write(flags.FLAGS.json, "growth", {"numerics": numerics, "rows": rows}, where)


if __name__ == "__main__":
    device.define()
    flags.DEFINE_multi_enum("axis", None, list(AXES), "Along which axis; may be given several times. Default: all.")
    flags.DEFINE_enum("numerics", "exact", ["exact", "fast"], "Which tier.")
    flags.DEFINE_integer("rounds", 3, "Rounds, each timing all sizes.", lower_bound=1)
    flags.DEFINE_string("json", None, "Write the figures to this file.")
    flags.DEFINE_integer("size", None, "Measure the memory of this size of the axis alone, and print it as JSON.")
    app.run(main)
