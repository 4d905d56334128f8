"""A worker of benchmarks/parity/cluster.py: trains its cases by Keras and by fitcore, as the other workers do, and compares."""

from __future__ import annotations

import dataclasses
import functools
import json
import time
from types import SimpleNamespace
from typing import Any

import keras
import numpy as np
from absl import app, flags

import fitcore
from benchmarks.parity.cluster import WAYS, multiworker
from benchmarks.parity.comparison import Row, judged, same_bytes, train
from benchmarks.parity.setup import Case
from fitcore.cluster import role


class Unpatched:
    """Keras's own methods, called inside the scope; the History's vectors of one element are numbers again."""

    @staticmethod
    def fit(model: keras.Model, *data: Any, **arguments: Any) -> Any:
        with multiworker().scope():
            found = model.fit(*data, **arguments).history
        return SimpleNamespace(history={name: [float(np.ravel(value)[0]) for value in found[name]] for name in found})

    @staticmethod
    def train_on_batch(model: keras.Model, *data: Any) -> Any:
        with multiworker().scope():
            return model.train_on_batch(*data)

    @staticmethod
    def evaluate(model: keras.Model, *data: Any, **arguments: Any) -> Any:
        with multiworker().scope():
            return model.evaluate(*data, **arguments)


def compared(name: str, repeat: bool) -> Row:
    """A case trained by Keras and fitcore in this worker, as all workers do at the same time, and compared."""
    start = time.perf_counter()
    by_keras, by_fitcore = (Case(name, functools.partial(WAYS[name], way)) for way in (True, False))
    try:
        expected = repeated = train(by_keras, Unpatched)
        actual = train(by_fitcore, fitcore)
        if repeat or not same_bytes(expected, actual):  # as the other workers find too, or the job ends
            repeated = train(by_keras, Unpatched)
    except Exception as error:
        message = str(error).strip().splitlines() or [""]
        return Row(name, False, f"{type(error).__name__}: {message[0]}", None, None, None, time.perf_counter() - start)
    return dataclasses.replace(judged(name, expected, repeated, actual), seconds=time.perf_counter() - start)


def main(argv: list[str]) -> None:
    multiworker()  # before TensorFlow has run anything
    with open(f"{flags.FLAGS.rows}/{role.index()}.jsonl", "w") as file:
        for name in flags.FLAGS.case:
            print(json.dumps(dataclasses.asdict(compared(name, flags.FLAGS.repeat))), file=file, flush=True)


if __name__ == "__main__":
    flags.DEFINE_multi_string("case", None, "Which cases.")
    flags.DEFINE_string("rows", None, "Folder for each worker's rows.")
    flags.DEFINE_bool("repeat", True, "Train each case by Keras a second time.")
    app.run(main)
