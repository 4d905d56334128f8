"""How much faster is `fitcore.fit` than `model.fit`?

    python -m benchmarks.fit_speed [--workload=mlp] [--device=cpu] [--rounds=5] [--memory] [--json=FILE]
                                   [--patched] [--tensorboard] [--bar] [--strategy=mirrored]

In each round both train a fresh copy of the same model from the same seed, in turn, first one then the other first:

    first call   one fit of ten steps on a model just built: tracing and compiling
    later calls  one epoch more, of the workload's full length

Prints medians over the rounds, and the ratio of each round's pair with its spread. The workload's batch size, mostly 32,
default shuffle, verbose=0 unless there is `--bar`. After each round the two copies must hold the same bits, or the timing is
void. `--memory` adds the peak resident memory of a whole process that does the same with either.
"""

from __future__ import annotations

import contextlib
import io
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from absl import app, flags

import fitcore
from benchmarks import about, device
from benchmarks.measuring import in_turn, memory_megabytes, said_by
from benchmarks.parity.strategies import mirrored, one_device, two_logical_cpus
from benchmarks.workloads import DEFAULT, WORKLOADS, Workload

FIRST_STEPS = 10
STRATEGIES: dict[str, Callable[[], tf.distribute.Strategy]] = {"one": one_device, "mirrored": mirrored}

FLAGS = flags.FLAGS
flags.DEFINE_multi_enum("workload", None, list(WORKLOADS), "Which workload; several may be given. Default: six small ones.")
device.define()
flags.DEFINE_integer("rounds", 5, "Rounds, each timing both.", lower_bound=1)
flags.DEFINE_bool("memory", False, "Also measure the peak memory of a process of either kind.")
flags.DEFINE_string("json", None, "Write the figures to this file.")
flags.DEFINE_enum("only", None, ["keras", "fitcore"], "Train once with this one alone and print the peak memory in MB.")

flags.DEFINE_bool("patched", False, "Reach fitcore by model.fit under `fitcore.patch_keras()` instead of `fitcore.fit`.")
flags.DEFINE_bool("tensorboard", False, "Both with Keras's TensorBoard callback at its defaults.")
flags.DEFINE_bool("bar", False, "Both with the progress bar on, drawn as on a terminal, into nothing.")
flags.DEFINE_enum(
    "strategy", "none", ["none", *STRATEGIES], "Both under OneDeviceStrategy, or MirroredStrategy over two logical CPUs."
)

Fit = Callable[..., Any]


def keras_fit(model: keras.Model, *data: Any, **arguments: Any) -> Any:
    """`model.fit`."""
    return model.fit(*data, **arguments)


def fitcore_fit(model: keras.Model, *data: Any, **arguments: Any) -> Any:
    """fitcore's fit, reached as the flags say."""
    if not FLAGS.patched:
        return fitcore.fit(model, *data, **arguments)
    with fitcore.patch_keras():
        return model.fit(*data, **arguments)


FITS: dict[str, Fit] = {"keras": keras_fit, "fitcore": fitcore_fit}


class Nowhere(io.StringIO):
    """A terminal that nobody sees."""

    def write(self, text: str) -> int:
        return len(text)

    def isatty(self) -> bool:
        return True


def timed(fit: Fit, model: keras.Model, data: Any, batch: int) -> float:
    """Seconds of one fit, with what the flags ask for."""
    with contextlib.ExitStack() as stack:
        arguments: dict[str, Any] = {"batch_size": batch, "verbose": int(FLAGS.bar)}
        if FLAGS.bar:
            stack.enter_context(contextlib.redirect_stdout(Nowhere()))
        if FLAGS.tensorboard:
            folder = stack.enter_context(tempfile.TemporaryDirectory())
            arguments["callbacks"] = [keras.callbacks.TensorBoard(folder)]
        start = time.perf_counter()
        fit(model, *data, **arguments)
        return time.perf_counter() - start


def one_round(workload: Workload, fit: Fit) -> tuple[float, float, list[np.ndarray]]:
    """(seconds of the first call, seconds per step of the later call, final variables) of a fresh model."""
    keras.utils.set_random_seed(1)
    with STRATEGIES[FLAGS.strategy]().scope() if FLAGS.strategy != "none" else contextlib.nullcontext():
        model = workload.build()
    batch = workload.batch
    few, many = workload.data(FIRST_STEPS * batch), workload.data(workload.steps * batch)
    first = timed(fit, model, few, batch)
    timed(fit, model, few, batch)  # settles what a second call still sets up
    later = timed(fit, model, many, batch) / workload.steps
    variables = [variable.numpy() for variable in model.variables]
    keras.backend.clear_session()
    return first, later, variables


def measure(name: str, rounds: int) -> dict[str, Any]:
    """Figures of one workload."""
    found = in_turn(list(FITS), lambda which: one_round(WORKLOADS[name], FITS[which]), rounds)
    first = {which: [seconds for seconds, _, _ in found[which]] for which in FITS}
    later = {which: [seconds for _, seconds, _ in found[which]] for which in FITS}
    pairs = [(a, b) for (_, _, a), (_, _, b) in zip(found["keras"], found["fitcore"])]
    identical = all(np.array_equal(p, q) for theirs, ours in pairs for p, q in zip(theirs, ours))
    ratios = [k / f for k, f in zip(later["keras"], later["fitcore"])]
    return {
        "workload": name,
        "identical": identical,
        "keras_us_per_step": 1e6 * statistics.median(later["keras"]),
        "fitcore_us_per_step": 1e6 * statistics.median(later["fitcore"]),
        "speedup": statistics.median(ratios),
        "speedup_min": min(ratios),
        "speedup_max": max(ratios),
        "keras_first_s": statistics.median(first["keras"]),
        "fitcore_first_s": statistics.median(first["fitcore"]),
        "first_ratio": statistics.median(f / k for k, f in zip(first["keras"], first["fitcore"])),
    }


def peak_memory(name: str) -> dict[str, float]:
    """Peak resident memory in MB of a process that trains with Keras, and of one that trains with fitcore."""
    same = (f"--workload={name}", f"--device={FLAGS.device}", f"--strategy={FLAGS.strategy}")
    peaks = {f"{which}_peak_mb": said_by("fit_speed", f"--only={which}", *same) for which in FITS}
    return peaks | {"memory_ratio": peaks["fitcore_peak_mb"] / peaks["keras_peak_mb"]}


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {argv[1:]}")
    names = FLAGS.workload or DEFAULT
    where = device.use()
    tf.get_logger().setLevel("WARNING")  # not a line for each sum over replicas that is traced
    if FLAGS.strategy == "mirrored":
        two_logical_cpus()
    if FLAGS.only:
        for name in names:
            one_round(WORKLOADS[name], FITS[FLAGS.only])
        print(memory_megabytes("VmHWM"))
        return

    print(about.line(where))
    print("µs per step of later calls, and seconds of the first call (ten steps); medians of", FLAGS.rounds, "rounds")
    for which in FITS:  # the first model of a process pays for much that is not its own
        one_round(WORKLOADS["linear"], FITS[which])
    head = f"{'workload':12s} {'model.fit':>9s} {'fitcore':>9s} {'faster':>7s} {'min-max':>13s}"
    print(head + f" {'first: Keras':>13s} {'fitcore':>8s} {'ratio':>6s}  same bits", flush=True)
    rows = []
    for name in names:
        if FLAGS.strategy == "mirrored" and WORKLOADS[name].batch % 2:
            print(f"{name:12s} Keras can't cut its batch into two equal parts")
            continue
        row = measure(name, FLAGS.rounds)
        spread = f"{row['speedup_min']:.2f}-{row['speedup_max']:.2f}"
        line = (
            f"{name:12s} {row['keras_us_per_step']:9.0f} {row['fitcore_us_per_step']:9.0f} {row['speedup']:6.2f}x {spread:>13s}"
        )
        line += f" {row['keras_first_s']:12.2f}s {row['fitcore_first_s']:7.2f}s {row['first_ratio']:6.2f}"
        print(line + ("  yes" if row["identical"] else "  NO"), flush=True)
        if FLAGS.memory:
            row |= peak_memory(name)
            peaks = f"{row['keras_peak_mb']:.0f} MB with Keras, {row['fitcore_peak_mb']:.0f} MB with fitcore"
            print(f"{'':12s} peak memory {peaks}: {row['memory_ratio']:.3f}", flush=True)
        rows.append(row)
    if not rows:
        return
    mean = math.exp(statistics.fmean(math.log(row["speedup"]) for row in rows))
    print(f"fitcore is {mean:.2f} times as fast as model.fit (geometric mean)")
    if FLAGS.json:
        about.write(FLAGS.json, "fit_speed", {"geometric_mean": mean, "rows": rows}, where)
    if not all(row["identical"] for row in rows):
        sys.exit("The two did not do the same work.")


if __name__ == "__main__":
    app.run(main)
