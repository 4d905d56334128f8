"""Shows that `fitcore.fit` trains exactly as `model.fit`: `python -m benchmarks.parity [--case NAME]... [--json FILE]`.

Each case is trained by Keras, by fitcore, and by Keras again (a case that Keras itself doesn't repeat proves nothing), each
time from the same seed with a freshly built model. Then weights, optimizer variables, History and what else the case reports
are compared byte by byte; the differences shown are for the reader, not for the verdict. With `--norepeat` Keras trains again
only where the bits differ: a third less time, for cases that it is known to repeat.

A case that Keras doesn't repeat is tried once more in a process of its own, with op determinism switched on, and marked. Cases
under MultiWorkerMirroredStrategy, in two processes of their own, are compared too; PARITY.md's table has no row for them yet.
"""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import subprocess
import sys
import tempfile
from datetime import datetime, timezone

import keras
import numpy as np
import tensorflow as tf
from absl import app, flags

from benchmarks.parity import CASES, Row, cluster, compare, strategies
from benchmarks.parity.comparison import NOT_DETERMINISTIC


def device() -> str:
    """The device that trains: the first GPU, else the CPU."""
    gpus = tf.config.list_physical_devices("GPU")
    return str(tf.config.experimental.get_device_details(gpus[0]).get("device_name", "GPU")) if gpus else "CPU"


def table_line(row: Row, width: int) -> str:
    """A row as a line of the printed table."""
    numbers = "".join(f"{'-' if value is None else f'{value:.3g}':>11}" for value in (row.weights, row.optimizer, row.history))
    return f"{row.case:<{width}}{numbers}  {row.verdict}" + (", with op determinism" if row.op_determinism else "")


def compare_deterministically(name: str) -> Row:
    """Compare a case in a process of its own, where op determinism, which can't be switched off again, is on."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "benchmarks.parity", f"--case={name}", "--op_determinism", f"--json={folder}/row.json"]
        subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=dict(os.environ), check=False)
        with open(f"{folder}/row.json") as file:
            return Row(**json.load(file)["rows"][0])


def write_json(path: str, rows: list[Row]) -> None:
    """Write rows, versions, device and date; after each case, so that a run cut short leaves something."""
    versions = {
        "keras": keras.__version__,
        "tensorflow": tf.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
    }
    date = datetime.now(timezone.utc).date().isoformat()
    result = {"versions": versions, "device": device(), "date": date, "rows": [dataclasses.asdict(row) for row in rows]}
    with open(path, "w") as file:
        json.dump(result, file, indent=2)


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"Unknown arguments: {argv[1:]}")
    if flags.FLAGS.json and not flags.FLAGS.repeat:
        raise app.UsageError("--json is for PARITY.md, which says that Keras repeats itself: leave out --norepeat")
    strategies.two_logical_cpus()
    names = flags.FLAGS.case or [*CASES, *cluster.WAYS]
    where = device()
    if flags.FLAGS.op_determinism:
        tf.config.experimental.enable_op_determinism()
    print(f"Keras {keras.__version__}, TensorFlow {tf.__version__}, {where}; largest absolute differences to model.fit")
    width = max(map(len, names)) + 1
    print(f"{'case':<{width}}{'weights':>11}{'optimizer':>11}{'history':>11}  bit-identical", flush=True)
    rows = []
    in_cluster = [name for name in names if name in cluster.WAYS]
    together = cluster.rows_of(in_cluster, flags.FLAGS.repeat)  # begins when the first is asked for
    for name in names:
        row = next(together) if name in in_cluster else compare(CASES[name], repeat=flags.FLAGS.repeat)
        if row.verdict == NOT_DETERMINISTIC and name not in in_cluster and not flags.FLAGS.op_determinism:
            row = compare_deterministically(name)
        rows.append(row)
        print(table_line(row, width), flush=True)
        if flags.FLAGS.json:
            write_json(flags.FLAGS.json, rows)
    identical, skipped = sum(row.identical for row in rows), sum(row.skipped for row in rows)
    run = len(rows) - skipped
    print(f"parity {identical}/{run} bit-identical" + (f", {skipped} skipped" if skipped else ""))
    sys.exit(identical < run)


if __name__ == "__main__":
    # Defined here, not on import: absl refuses two modules that define the same flag.
    flags.DEFINE_multi_enum("case", None, sorted([*CASES, *cluster.WAYS]), "Train only this case; repeat the flag for several.")
    flags.DEFINE_string("json", None, "Also write rows, versions and device to this file.")
    flags.DEFINE_bool("repeat", True, "Train each case by Keras a second time.")
    flags.DEFINE_bool("op_determinism", False, "Switch TensorFlow's op determinism on.")
    app.run(main)
