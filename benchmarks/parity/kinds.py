"""Every activation, layer, optimizer, loss and metric that Keras exports: `benchmarks/kinds.py` lists them.

Each is trained by Keras, by fitcore, and by fitcore with the noise measured in a fit that is cut and gone on from on a new
model. Kinds that take the same data are parts of one model, each with weights of its own that no other one touches: what
takes the time is tracing. Where such a model isn't identical, its halves are trained, down to those kinds that are to blame.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers

import fitcore
from benchmarks import kinds
from benchmarks.kinds import make
from benchmarks.parity.comparison import Outcome, Row, judged, same_bytes, train
from benchmarks.parity.optimizers import MUON_FAILS
from benchmarks.parity.setup import Case, Impossible, Setup

ROWS, BATCH, EPOCHS = 22, 4, 2  # six steps an epoch, the last of two rows
SAVED, CUT = 5, 7  # after so many steps: what is gone on from is saved, the fit is cut
TOGETHER = 8  # kinds in one model: more take longer than in two, since what optimizes a graph grows faster than it
FIT = {"batch_size": BATCH, "epochs": EPOCHS}


@dataclass(frozen=True)
class Kind:
    """What a row is about.

    Attributes:
      name: as Keras exports it.
      arguments: as in `benchmarks/kinds.py`.
      module: the module of Keras that exports it.
      group: the kinds of a group are trained in one model.
    """

    name: str
    arguments: str
    module: Any
    group: str

    @property
    def text(self) -> str:
        """The feature, as PARITY.md's table says it."""
        return f"`{self.name}`" if self.module is keras.activations else f"`{self.name}({self.arguments})`"

    def made(self, **more: Any) -> Any:
        arguments = ", ".join([*filter(None, [self.arguments]), *(f"{name}={value!r}" for name, value in more.items())])
        return make(self.module, self.name, arguments)


# --- the models -----------------------------------------------------------------------------------------------------------


def random(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """Normal numbers, a row for each example; below likewise."""
    return np.random.default_rng(seed).normal(size=(ROWS, *shape)).astype("float32")


def uniform(shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(1).uniform(size=(ROWS, *shape)).astype("float32")


def numbers(below: int, shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(2).integers(0, below, size=(ROWS, *shape))


DATA: dict[str, Callable[[], Any]] = {  # what goes into layers, by the names in kinds.LAYERS
    "vectors": lambda: random((6,)),
    "pairs of vectors": lambda: random((6,)),
    "sequences": lambda: random((6, 3)),
    "pairs of sequences": lambda: random((6, 3)),
    "images": lambda: random((6, 6, 2)),
    "volumes": lambda: random((4, 4, 4, 2)),
    "films of volumes": lambda: random((2, 3, 3, 3, 1)),
    "raw images": lambda: uniform((6, 6, 3)),
    "raw numbers": lambda: random((4,)),
    "raw sounds": lambda: random((64,)),
    "tokens": lambda: numbers(12, (4,)),
    "texts": lambda: tf.gather([["a"], ["b"], ["c d"], ["a b e"]], numbers(4, ())),
}
CELLS = ("GRUCell", "LSTMCell", "SimpleRNNCell", "StackedRNNCells")


def headed(parts: dict[str, Any], inputs: Any) -> keras.Model:
    """A model that puts the parts' heads beside each other: the gradient of none depends on another."""
    heads = [layers.Dense(1, name=f"{name}_head")(layers.Flatten()(part)) for name, part in parts.items()]
    model = keras.Model(inputs, layers.Concatenate()(heads) if len(heads) > 1 else heads[0])
    model.compile(keras.optimizers.SGD(0.05), "mse")
    return model


def with_layers(several: Sequence[Kind]) -> Setup:
    """Each layer between weights below it, if gradients pass, and a head."""
    given = several[0].group
    x = DATA[given]()
    inputs = keras.Input(x.shape[1:], dtype=tf.as_dtype(x.dtype).name)
    parts = {}
    for kind in several:
        below = [inputs, inputs]
        if not given.startswith(("raw", "tokens", "texts")):
            width = 5 if "vectors" in given else x.shape[-1]
            below = [layers.Dense(width, name=f"{kind.name}_below_{i}")(inputs) for i in range(1 + given.startswith("pairs"))]
        layer = layers.RNN(kind.made()) if kind.name in CELLS else kind.made()
        if kind.name == "HashedCrossing":
            parts[kind.name] = layer((inputs[:, :1], inputs[:, 1:2]))
        elif kind.name in ("MultiHeadAttention", "GroupQueryAttention"):
            parts[kind.name] = layer(*below)
        else:
            parts[kind.name] = layer(below if given.startswith("pairs") else below[0])
    parts = {name: part if "float" in part.dtype else keras.ops.cast(part, "float32") for name, part in parts.items()}
    return headed(parts, inputs), {"x": x, "y": random((len(parts),), 3), **FIT}


def with_activations(several: Sequence[Kind]) -> Setup:
    """Each within a convolution and a dense layer, where TensorFlow fuses it with product and bias if it can."""
    inputs = keras.Input((4, 4, 2))
    parts = {}
    for kind in several:
        activation = kind.made()
        if kind.arguments:
            activation = eval(f"lambda x: activation(x, {kind.arguments})", {"activation": activation})
        if kind.name == "glu":  # halves what it is given: Keras's layers don't know
            parts[kind.name] = activation(layers.Dense(6)(layers.Flatten()(inputs)))
        else:
            hidden = layers.Flatten()(layers.Conv2D(3, 2, activation=activation)(inputs))
            parts[kind.name] = layers.Dense(4, activation=activation)(hidden)
    return headed(parts, inputs), {"x": random((4, 4, 2)), "y": random((len(parts),), 3), **FIT}


def with_optimizer(several: Sequence[Kind]) -> Setup:
    """One optimizer: a model has no more."""
    if several[0].name == "Muon" and keras.__version__.startswith("3.12."):
        raise Impossible(MUON_FAILS)
    model = keras.Sequential([keras.Input((6,)), layers.Dense(5, "relu"), layers.Dense(1)])
    model.compile(several[0].made(), "mse")
    return model, {"x": random((6,)), "y": random((1,), 3), **FIT}


def head(targets: str, name: str, hidden: Any) -> tuple[Any, np.ndarray]:
    """An output whose targets are such as kinds.LOSSES and kinds.METRICS name, and these."""
    dense = functools.partial(layers.Dense, name=name)
    if targets == "yes or no":
        return dense(1, "sigmoid")(hidden), numbers(2, (1,)).astype("float32")
    if targets == "texts of classes":
        return layers.Reshape((5, 4), name=name)(layers.Dense(20)(hidden)), 1 + numbers(3, (2,))
    if targets == "number of a class, for a vector of length one":
        return layers.UnitNormalization(name=name)(layers.Dense(3)(hidden)), numbers(3, ())
    if targets == "numbers":
        return dense(3)(hidden), random((3,), 3)
    if targets == "positive numbers":
        return dense(3, "softplus")(hidden), uniform((3,))
    return dense(3, "softmax")(hidden), np.eye(3, dtype="float32")[numbers(3, ())] if "one" in targets else numbers(3, ())


def with_losses(several: Sequence[Kind]) -> Setup:
    """An output, and weights, for each loss."""
    inputs = keras.Input((6,))
    made = {kind.name: head(kind.group, kind.name, layers.Dense(4, "relu")(inputs)) for kind in several}
    model = keras.Model(inputs, {name: output for name, (output, _) in made.items()})
    model.compile(keras.optimizers.SGD(0.05), {kind.name: kind.made() for kind in several})
    return model, {"x": random((6,)), "y": {name: targets for name, (_, targets) in made.items()}, **FIT}


def with_metrics(several: Sequence[Kind]) -> Setup:
    """One output that all metrics look at."""
    inputs = keras.Input((6,))
    output, targets = head(several[0].group, "output", layers.Dense(4, "relu")(inputs))
    model = keras.Model(inputs, output)
    metrics = [kind.made(name=kind.name) if kind.name[0].isupper() else kind.made() for kind in several]
    loss = "sparse_categorical_crossentropy" if several[0].group == "number of a class" else "mse"
    model.compile(keras.optimizers.SGD(0.05), loss, metrics=metrics)
    return model, {"x": random((6,)), "y": targets, **FIT}


# --- all of them, by name -------------------------------------------------------------------------------------------------

MODELS = {
    "activation": (keras.activations, with_activations, "activations"),
    "layer": (keras.layers, with_layers, "layers"),
    "optimizer": (keras.optimizers, with_optimizer, "optimizers"),
    "loss": (keras.losses, with_losses, "losses"),
    "metric": (keras.metrics, with_metrics, "metrics"),
}
_GROUPS: dict[str, dict[str, dict[str, str]]] = {
    "activation": {"activations": kinds.ACTIVATIONS},
    "layer": kinds.LAYERS,
    "optimizer": {name: {name: arguments} for name, arguments in kinds.OPTIMIZERS.items()},
    "loss": kinds.LOSSES,
    "metric": kinds.METRICS,
}
KINDS: dict[str, Kind] = {  # by the names of their rows
    f"{what}_{name}": Kind(name, arguments, MODELS[what][0], group)
    for what, groups in _GROUPS.items()
    for group, several in groups.items()
    for name, arguments in several.items()
}


def theme(name: str) -> str:
    """Under which heading a row stands."""
    return f"Keras's {MODELS[name.split('_')[0]][2]}: exact, with noise, resumed"


# --- trained and compared -------------------------------------------------------------------------------------------------


class Cut(Exception):
    """Ends a fit as a kill would."""


class Cutting(fitcore.Hook):
    """Ends the fit after so many steps; 0: never. `went_on`: a checkpoint told it how it stood."""

    went_on = False

    def __init__(self, after: int) -> None:
        self.when = fitcore.When(steps=after, epochs=False) if after else fitcore.NEVER

    def load_state(self, state: dict[str, Any]) -> None:
        self.went_on = True

    def after_steps(self, view: fitcore.View) -> None:
        raise Cut


def measured_fit(model: keras.Model, **arguments: Any) -> keras.callbacks.History:
    """`fitcore.fit` with noise, which must come out."""
    history = fitcore.fit(model, noise=True, **arguments)
    if not len(history.noise.trace):
        raise RuntimeError("Nothing was measured.")
    return history


def resumed(case: Case, by: Any) -> Outcome:
    """What is left by a fit that is cut, and gone on from on a new model."""
    with tempfile.TemporaryDirectory() as folder:

        def run(cutting: Cutting) -> Outcome:
            def build() -> Setup:
                model, arguments = case.build()
                assert isinstance(arguments, dict)
                return model, arguments | {"checkpoint": fitcore.Checkpoint(folder, every=f"{SAVED} steps"), "hooks": [cutting]}

            return train(Case(case.name, build), by)

        with contextlib.suppress(Cut):
            run(Cutting(CUT))
            raise RuntimeError("The fit was not cut.")
        again = Cutting(0)
        outcome = run(again)
        if not again.went_on:  # a fit that begins again has the bits too
            raise RuntimeError("The fit began again.")
        return outcome


MEASURED = SimpleNamespace(fit=measured_fit)


def compared(name: str, several: Sequence[Kind], repeat: bool) -> Row:
    """The row of one model, with the first claim that doesn't hold: exact, with noise, resumed; or the last two together."""
    model_of = MODELS[name.split("_")[0]][1]
    case = Case(name, lambda: model_of(several))
    claim = "exact"
    try:
        expected = repeated = train(case, keras.Model)
        actual = train(case, fitcore)
        if same_bytes(expected, actual):
            claim = "with noise, resumed"
            actual = resumed(case, MEASURED)
        if repeat or not same_bytes(expected, actual):
            repeated = train(case, keras.Model)
        row = judged(name, expected, repeated, actual)
        if row.verdict == "NO" and claim != "exact" and len(several) == 1:
            for one, outcome in (("with noise", train(case, MEASURED)), ("resumed", resumed(case, fitcore))):
                if not same_bytes(expected, outcome):
                    return dataclasses.replace(judged(name, expected, repeated, outcome), claim=one)
    except Impossible as error:
        return Row(name, False, f"skipped: {error}", None, None, None, 0.0)
    except Exception as error:  # whatever goes wrong with one kind, the others shall be seen
        message = str(error).strip().splitlines() or [""]
        return Row(name, False, f"{type(error).__name__}: {message[0]}", None, None, None, 0.0, claim=claim)
    return row if row.identical else dataclasses.replace(row, claim=claim)


def rows_of(names: Sequence[str], repeat: bool) -> Iterator[Row]:
    """The rows of these kinds, those of one model together."""
    groups: dict[tuple[str, str], list[str]] = {}
    for name in names:
        kind = KINDS[name]
        if not hasattr(kind.module, kind.name):
            yield Row(name, False, f"skipped: Keras {keras.__version__} has no {kind.name}", None, None, None, 0.0)
        else:
            groups.setdefault((name.split("_")[0], kind.group), []).append(name)
    for all_of_it in groups.values():
        for i in range(0, len(all_of_it), TOGETHER):
            yield from _rows(all_of_it[i : i + TOGETHER], repeat)


def _rows(names: Sequence[str], repeat: bool) -> list[Row]:
    """The rows of kinds that can be parts of one model."""
    start = time.perf_counter()
    row = compared(names[0], [KINDS[name] for name in names], repeat)
    each = (time.perf_counter() - start) / len(names)
    together = [dataclasses.replace(row, case=name, seconds=each) for name in names]
    if row.identical or len(names) == 1:
        return together
    middle = len(names) // 2
    apart = _rows(names[:middle], repeat) + _rows(names[middle:], repeat)
    return together if all(row.identical for row in apart) else apart  # else it takes the company of the others
