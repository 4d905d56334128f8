"""Shows that `fitcore.fit` trains exactly as `model.fit`: `python -m benchmarks.parity [--case NAME]... [--json FILE]`.

Each case is trained by Keras, by fitcore, and by Keras again (a case that Keras itself doesn't repeat proves nothing), each
time from the same seed with a freshly built model. Then weights, optimizer variables, History and what else the case reports
are compared byte by byte; the differences shown are for the reader, not for the verdict. With `--norepeat` Keras trains again
only where the bits differ: a third less time, for cases that it is known to repeat.

A case that Keras doesn't repeat is tried once more in a process of its own, with op determinism switched on, and marked. Cases
under MultiWorkerMirroredStrategy are trained in two processes of their own. Kinds (kinds.py) make several claims each.

`--onednn` asks for a setting of oneDNN, or both, where it isn't this process's in a process of its own. `--kernels` leaves out
those cases of which the feature is how fit is called, fed, watched or spread: they compute what others compute, and oneDNN
changes nothing else.
"""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from datetime import datetime, timezone
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from absl import app, flags

from benchmarks.parity import ABOUT_KERNELS, CASES, Row, cluster, compare, kinds, setting, strategies
from benchmarks.parity.comparison import NOT_DETERMINISTIC

SWITCHES = ("repeat", "kernels", "kinds", "op_determinism")  # flags that a process of the other setting is given too


def device() -> str:
    """The device that trains: the first GPU, else the CPU."""
    gpus = tf.config.list_physical_devices("GPU")
    return str(tf.config.experimental.get_device_details(gpus[0]).get("device_name", "GPU")) if gpus else "CPU"


def table_line(row: Row, width: int) -> str:
    """A row as a line of the printed table."""
    numbers = "".join(f"{'-' if value is None else f'{value:.3g}':>11}" for value in (row.weights, row.optimizer, row.history))
    verdict = f"{row.claim}: {row.verdict}" if row.claim else row.verdict
    return f"{row.case:<{width}}{numbers}  {verdict}" + (", with op determinism" if row.op_determinism else "")


def compare_deterministically(name: str) -> Row:
    """Compare a case in a process of its own, where op determinism, which can't be switched off again, is on."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "benchmarks.parity", f"--case={name}", "--op_determinism", f"--json={folder}/row.json"]
        subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=dict(os.environ), check=False)
        with open(f"{folder}/row.json") as file:
            return Row(**json.load(file)[0]["rows"][0])


def about() -> dict[str, Any]:
    """What PARITY.md says of a run: versions, device, date, oneDNN's setting and the CPU."""
    versions = {
        "keras": keras.__version__,
        "tensorflow": tf.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
    }
    date = datetime.now(timezone.utc).date().isoformat()
    settings = {"onednn": setting.here(), "onednn_by_default": setting.by_default()}
    return {"versions": versions, "device": device(), "date": date, "cpu": setting.cpu()} | settings


def write_json(path: str, run: dict[str, Any], rows: Sequence[Any]) -> None:
    """Write a list of one run, whose rows are of any dataclass; after each case, so that a run cut short leaves something."""
    with open(path, "w") as file:
        json.dump([run | {"rows": [dataclasses.asdict(row) for row in rows]}], file, indent=2)


def chosen() -> list[str]:
    """The names of the cases that are asked for."""
    names = flags.FLAGS.case or [*CASES, *cluster.WAYS, *(kinds.KINDS if flags.FLAGS.kinds else ())]
    if flags.FLAGS.kernels:
        names = [name for name in names if name in kinds.KINDS or (name in CASES and CASES[name].theme in ABOUT_KERNELS)]
    return list(names)


def rows_of(names: list[str]) -> Iterator[Row]:
    """The rows of these cases; those of a cluster and of kinds, which share processes and models, at the end."""
    for name in names:
        if name in CASES:
            yield compare(CASES[name], repeat=flags.FLAGS.repeat)
    yield from cluster.rows_of([name for name in names if name in cluster.WAYS], flags.FLAGS.repeat)
    yield from kinds.rows_of([name for name in names if name in kinds.KINDS], flags.FLAGS.repeat)


def in_this_process() -> bool:
    """Compare, print and write; returns whether all is identical."""
    names = chosen()
    strategies.two_logical_cpus()
    where = device()
    if flags.FLAGS.op_determinism:
        tf.config.experimental.enable_op_determinism()
    run = about() if flags.FLAGS.json else {}
    versions = f"Keras {keras.__version__}, TensorFlow {tf.__version__}, {where}, oneDNN {('off', 'on')[int(setting.here())]}"
    print(f"{versions}; largest absolute differences to model.fit")
    width = max(map(len, names)) + 1
    print(f"{'case':<{width}}{'weights':>11}{'optimizer':>11}{'history':>11}  bit-identical", flush=True)
    rows = []
    for row in rows_of(names):
        if row.verdict == NOT_DETERMINISTIC and row.case not in cluster.WAYS and not flags.FLAGS.op_determinism:
            row = compare_deterministically(row.case)
        rows.append(row)
        print(table_line(row, width), flush=True)
        if flags.FLAGS.json:
            write_json(flags.FLAGS.json, run, rows)
    identical, skipped = sum(row.identical for row in rows), sum(row.skipped for row in rows)
    print(f"parity {identical}/{len(rows) - skipped} bit-identical" + (f", {skipped} skipped" if skipped else ""))
    return identical == len(rows) - skipped


def in_another(which: str) -> bool:
    """The same in a process that has this setting of oneDNN; what it writes as JSON comes behind what is there."""
    passed = [f"--case={name}" for name in flags.FLAGS.case or ()]
    passed += [f"--{'' if getattr(flags.FLAGS, name) else 'no'}{name}" for name in SWITCHES]
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "other.json"
        identical = setting.run(which, [*passed, *([f"--json={path}"] if flags.FLAGS.json else [])]) == 0
        if path.exists():
            result = pathlib.Path(flags.FLAGS.json)
            before = json.loads(result.read_text()) if flags.FLAGS.onednn == "both" else []
            result.write_text(json.dumps(before + json.loads(path.read_text()), indent=2))
    return identical


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"Unknown arguments: {argv[1:]}")
    if flags.FLAGS.json and not flags.FLAGS.repeat:
        raise app.UsageError("--json is for PARITY.md, which says that Keras repeats itself: leave out --norepeat")
    asked = flags.FLAGS.onednn
    passed = []
    if asked in ("both", "here", setting.here()):
        passed.append(in_this_process())
    if asked in ("both", "other", setting.other()):
        passed.append(in_another(setting.other()))
    sys.exit(not all(passed))


if __name__ == "__main__":
    # Defined here, not on import: absl refuses two modules that define the same flag.
    flags.DEFINE_multi_enum(
        "case", None, sorted([*CASES, *cluster.WAYS, *kinds.KINDS]), "Train only this case; repeat the flag for several."
    )
    flags.DEFINE_string("json", None, "Also write rows, versions and device to this file.")
    flags.DEFINE_bool("repeat", True, "Train each case by Keras a second time.")
    flags.DEFINE_enum(
        "onednn",
        "here",
        ["0", "1", "here", "other", "both"],
        "With oneDNN off (0) or on (1); as in this process, in the other way, or both.",
    )
    flags.DEFINE_bool("kinds", True, "Every activation, layer, optimizer, loss and metric too.")
    flags.DEFINE_bool("kernels", False, "Only cases of which the feature is what is computed.")
    flags.DEFINE_bool("op_determinism", False, "Switch TensorFlow's op determinism on.")
    app.run(main)
