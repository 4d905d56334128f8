"""Shows that `fitcore.fit` trains exactly as `model.fit`: `python -m benchmarks.parity [--case NAME]... [--json FILE]`.

Each case of `parity_models.py` and `parity_cases.py` is trained by Keras, by Keras again (a case that Keras itself doesn't
repeat proves nothing), and by fitcore, each time from the same seed with a freshly built model. Then weights, optimizer
variables and History are compared byte by byte; the differences shown are for the reader, not for the verdict.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from absl import app, flags

import fitcore
from benchmarks.noise_parity import NOISE_CASES, fit_of
from benchmarks.parity_cases import CASES
from benchmarks.parity_models import Case

SEED = 1234

Fit = Callable[..., keras.callbacks.History]  # (model, **arguments of fit) -> History


@dataclass(frozen=True)
class Outcome:
    """What a training leaves behind, by name.

    Attributes:
      weights: all of `model.variables`: weights, BatchNormalization's means, RNN states, the states of random generators.
      optimizer: the optimizer's variables, its step count and a loss scale included.
      history: an array per key of the History, of the type of its values.
    """

    weights: Mapping[str, np.ndarray]
    optimizer: Mapping[str, np.ndarray]
    history: Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Row:
    """A case's result: the largest absolute differences, and whether all bytes were equal.

    Attributes:
      case: the case's name.
      identical: every byte is equal, and Keras repeats itself.
      verdict: "yes", "NO", or why there is nothing to compare.
      weights, optimizer, history: largest absolute difference; infinite where shapes or names differ, None if unknown.
      seconds: how long the three trainings took.
    """

    case: str
    identical: bool
    verdict: str
    weights: float | None
    optimizer: float | None
    history: float | None
    seconds: float


def compare(case: Case, fit: Fit = fitcore.fit) -> Row:
    """Train a case by `model.fit` (twice) and by `fit`, and compare what they leave behind."""
    start = time.perf_counter()
    try:
        expected, repeated = train(case, keras_fit), train(case, keras_fit)
        actual = train(case, fit)
    except Exception as error:  # whatever goes wrong in one case, the others shall be seen
        message = str(error).strip().splitlines() or [""]
        return Row(case.name, False, f"{type(error).__name__}: {message[0]}", None, None, None, time.perf_counter() - start)
    if not same_bytes(expected, repeated):
        verdict = "Keras not deterministic"
    else:
        verdict = "yes" if same_bytes(expected, actual) else "NO"
    return Row(
        case=case.name,
        identical=verdict == "yes",
        verdict=verdict,
        weights=difference(expected.weights, actual.weights),
        optimizer=difference(expected.optimizer, actual.optimizer),
        history=difference(expected.history, actual.history),
        seconds=time.perf_counter() - start,
    )


def keras_fit(model: keras.Model, **arguments: Any) -> keras.callbacks.History:
    """`model.fit`, called as `fitcore.fit` is."""
    return model.fit(**arguments)


def train(case: Case, fit: Fit) -> Outcome:
    """Build a case from the seed and train it by `fit`."""
    with fresh_keras(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # data that run out, no trainable weights: some cases are about just that
        model, arguments = case.build()
        history = fit(model, verbose=0, **arguments).history
        return Outcome(
            weights={f"{i} {variable.path}": variable.numpy() for i, variable in enumerate(model.variables)},
            optimizer={f"{i} {variable.path}": variable.numpy() for i, variable in enumerate(model.optimizer.variables)},
            history={name: np.asarray(values) for name, values in history.items()},
        )


@contextmanager
def fresh_keras() -> Iterator[None]:
    """Keras as in a new process, seeded: names count from zero; dtype settings made inside are undone."""
    floatx, policy = keras.config.floatx(), keras.config.dtype_policy()
    keras.utils.clear_session()
    keras.utils.set_random_seed(SEED)
    try:
        yield
    finally:
        keras.config.set_floatx(floatx)
        keras.config.set_dtype_policy(policy)


def same_bytes(a: Outcome, b: Outcome) -> bool:
    """Whether all arrays of two outcomes agree in name, order, type, shape and every byte (so NaN equals the same NaN)."""
    return _bytes(a) == _bytes(b)


def difference(a: Mapping[str, np.ndarray], b: Mapping[str, np.ndarray]) -> float:
    """The largest absolute difference between arrays of the same names; infinite where names, shapes or NaNs differ."""
    if a.keys() != b.keys() or any(a[name].shape != b[name].shape for name in a):
        return float("inf")
    return max((_array_difference(a[name], b[name]) for name in a), default=0.0)


def _bytes(outcome: Outcome) -> list[Any]:
    parts = (outcome.weights, outcome.optimizer, outcome.history)
    return [[(name, str(v.dtype), v.shape, v.tobytes()) for name, v in part.items()] for part in parts]


def _array_difference(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a.astype(np.float64), b.astype(np.float64)
    differs = ~((a == b) | (np.isnan(a) & np.isnan(b)))
    values = np.abs(a[differs] - b[differs])
    return float(np.where(np.isnan(values), np.inf, values).max(initial=0.0))


def device() -> str:
    """The device that trains: the first GPU, else the CPU."""
    gpus = tf.config.list_physical_devices("GPU")
    return str(tf.config.experimental.get_device_details(gpus[0]).get("device_name", "GPU")) if gpus else "CPU"


def table_line(row: Row, width: int) -> str:
    """A row as a line of the printed table."""
    numbers = "".join(f"{'-' if value is None else f'{value:.3g}':>11}" for value in (row.weights, row.optimizer, row.history))
    return f"{row.case:<{width}}{numbers}  {row.verdict}"


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"Unknown arguments: {argv[1:]}")
    cases = CASES | NOISE_CASES
    names = flags.FLAGS.case or list(cases)
    where = device()
    print(f"Keras {keras.__version__}, TensorFlow {tf.__version__}, {where}; largest absolute differences to model.fit")
    width = max(map(len, names)) + 1
    print(f"{'case':<{width}}{'weights':>11}{'optimizer':>11}{'history':>11}  bit-identical")
    rows = []
    for name in names:
        rows.append(compare(cases[name], fit_of(name)))
        print(table_line(rows[-1], width), flush=True)
    identical = sum(row.identical for row in rows)
    if flags.FLAGS.json:
        versions = {"keras": keras.__version__, "tensorflow": tf.__version__, "numpy": np.__version__}
        result = {"versions": versions, "device": where, "rows": [dataclasses.asdict(row) for row in rows]}
        with open(flags.FLAGS.json, "w") as file:
            json.dump(result, file, indent=2)
    print(f"parity {identical}/{len(rows)} bit-identical")
    sys.exit(identical < len(rows))


if __name__ == "__main__":
    # Defined here, not on import: absl refuses two modules that define the same flag.
    flags.DEFINE_multi_enum("case", None, sorted(CASES | NOISE_CASES), "Train only this case; repeat the flag for several.")
    flags.DEFINE_string("json", None, "Also write rows, versions and device to this file.")
    app.run(main)
