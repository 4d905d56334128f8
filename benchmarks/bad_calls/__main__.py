"""Shows that fitcore refuses what Keras refuses, with the same class: `python -m benchmarks.bad_calls [--json FILE]`.

Each bad call is made by Keras and by fitcore, with a freshly built model. Fine are: an error of the class that Keras raises, or
of a subclass of it; none where Keras raises none, and then the same result; and an error where Keras raises none, if the call
says why. The lines printed are those where the two differ, and what is wrong.
"""

from __future__ import annotations

import sys

import keras
import tensorflow as tf
from absl import app, flags

from benchmarks.bad_calls import CALLS, compare
from benchmarks.parity.__main__ import about, device, write_json


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"Unknown arguments: {argv[1:]}")
    print(f"Keras {keras.__version__}, TensorFlow {tf.__version__}, {device()}")
    rows = []
    for theme, calls in CALLS.items():
        print(theme)
        for bad in calls:
            row = compare(bad)
            rows.append(row)
            if row.problem or row.keras != row.fitcore:
                wrong = f"  WRONG: {row.problem}" if row.problem else ""
                print(f"  {bad.text}: {row.keras}, fitcore {row.fitcore}{wrong}", flush=True)
    if flags.FLAGS.json:
        write_json(flags.FLAGS.json, about(), rows)
    wrong_rows = sum(bool(row.problem) for row in rows)
    print(f"bad calls {len(rows) - wrong_rows}/{len(rows)} answered as by Keras, or for a stated reason not")
    sys.exit(wrong_rows > 0)


if __name__ == "__main__":
    flags.DEFINE_string("json", None, "Also write rows, versions and device to this file.")
    app.run(main)
