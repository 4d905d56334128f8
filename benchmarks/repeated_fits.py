"""What repeated fits cost: `python -m benchmarks.repeated_fits [--fits=300] [--device=cpu] [--json=FILE]`.

The same small model (with dropout and Adam) is trained by N fits of one epoch, by fitcore and by Keras, and by one fit of
N epochs. Prints whether the weights are the same bits, the programs traced, milliseconds per fit, and by how much the
resident memory grew from the 50th fit to the last. Each way runs in a process of its own, which another can't disturb.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from absl import app, flags

import fitcore
from benchmarks import about, device
from benchmarks.measuring import memory_megabytes, said_by

SETTLED = 50  # fits after which memory is expected to stay where it is

WAYS = ("fitcore, repeated", "fitcore, one fit", "keras, repeated", "keras, one fit")

FLAGS = flags.FLAGS
device.define()
flags.DEFINE_integer("fits", 300, "Fits of one epoch.", lower_bound=SETTLED + 1)
flags.DEFINE_string("json", None, "Write the figures to this file.")
flags.DEFINE_enum("only", None, WAYS, "Train in this way alone, and print its figures as JSON.")


def train(way: str, fits: int) -> dict[str, Any]:
    """Train in one of `WAYS`; returns its figures."""
    keras.utils.set_random_seed(1)
    layers = keras.layers
    hidden = [layers.Dense(16, activation="relu"), layers.Dropout(0.2)]
    model = keras.Sequential([keras.Input((8,)), *hidden, layers.Dense(1)])
    model.compile("adam", "mse", metrics=["mae"])
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(100, 8)).astype("float32"), rng.normal(size=(100, 1)).astype("float32")
    fit: Callable[..., Any] = fitcore.fit if way.startswith("fitcore") else keras.Model.fit
    repeated = way.endswith("repeated")

    start = time.perf_counter()
    settled = 0.0
    for i in range(fits if repeated else 1):
        fit(model, x, y, epochs=1 if repeated else fits, verbose=0)
        if i + 1 == SETTLED:
            settled = memory_megabytes("VmRSS")
    seconds = time.perf_counter() - start
    digest = hashlib.sha256(b"".join(variable.numpy().tobytes() for variable in model.variables + model.optimizer.variables))
    return {
        "way": way,
        "sha256": digest.hexdigest(),
        "ms_per_epoch": 1e3 * seconds / fits,
        "traces": fitcore.Engine.of_compiled(model).traces if way.startswith("fitcore") else None,
        "growth_mb": memory_megabytes("VmRSS") - settled if repeated else None,
    }


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"Unknown arguments: {argv[1:]}")
    where = device.use()
    if FLAGS.only:
        print(json.dumps(train(FLAGS.only, FLAGS.fits)))
        return
    rows = []
    print(
        f"{about.line(where)}; {FLAGS.fits} epochs of 4 steps; memory grown from fit {SETTLED} to fit {FLAGS.fits}",
        flush=True,
    )
    for way in WAYS:
        row = said_by("repeated_fits", f"--only={way}", f"--fits={FLAGS.fits}", f"--device={where}")
        line = f"{way:18s} {row['ms_per_epoch']:6.1f} ms per epoch, weights {row['sha256'][:12]}"
        line += "" if row["traces"] is None else f", {row['traces']} traced"
        print(line + ("" if row["growth_mb"] is None else f", memory grew by {row['growth_mb']:.1f} MB"), flush=True)
        rows.append(row)
    identical = len({row["sha256"] for row in rows}) == 1
    print("all the same bits" if identical else "NOT the same bits")
    if FLAGS.json:
        about.write(FLAGS.json, "repeated_fits", {"identical": identical, "rows": rows}, where)
    sys.exit(not identical)


if __name__ == "__main__":
    app.run(main)
