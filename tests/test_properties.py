"""Over many fits: fitcore and Keras train to the same bits or both refuse; a cut fit ends as one undisturbed."""

from __future__ import annotations

import contextlib
import functools
import os
import tempfile
import warnings
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from cuts import SEED, Case, Cut, differing, plain
from hypothesis import HealthCheck, assume, given, note, settings
from hypothesis import strategies as st
from keras import layers

import fitcore

# An example takes a second or two, most of it tracing. FITCORE_EXAMPLES: for a long campaign, other examples each time.
EXAMPLES = int(os.environ.get("FITCORE_EXAMPLES", "0"))


def examples(count: int) -> Any:
    return settings(
        max_examples=EXAMPLES or count,
        derandomize=not EXAMPLES,
        database=None,
        deadline=None,
        print_blob=True,
        suppress_health_check=list(HealthCheck),
    )


# --- data and models ------------------------------------------------------------------------------------------------------

DTYPES = ("float32", "float64", "float16", "int32", "int64", "uint8", "bool")
STRUCTURES = ("array", "tuple", "dict")


@functools.cache
def model_of(structure: str, dtypes: tuple[str, ...], widths: tuple[int, ...], executions: int) -> keras.Model:
    """A small model, always the same one for the same inputs."""
    keras.utils.set_random_seed(SEED)
    inputs = [keras.Input((width,), dtype=dtype, name=name) for name, dtype, width in zip("ab", dtypes, widths)]
    parts = [layers.Lambda(lambda x: keras.ops.cast(x, "float32"))(each) for each in inputs]
    body = layers.Dense(3, activation="relu")(layers.Concatenate()(parts) if len(parts) > 1 else parts[0])
    output = layers.Dense(1)(layers.Dropout(0.3)(layers.BatchNormalization()(body)))
    given: Any = {"array": lambda: inputs[0], "tuple": lambda: inputs, "dict": lambda: dict(zip("ab", inputs))}[structure]()
    model = keras.Model(given, output)
    model.compile(keras.optimizers.Adam(0.01), "mse", metrics=["mae"], weighted_metrics=["mse"], steps_per_execution=executions)
    return model


def values(rows: int, width: int, dtype: str, seed: int) -> np.ndarray:
    drawn = np.random.default_rng(seed).normal(size=(rows, width)) * 3
    return (
        (drawn > 0).astype(dtype)
        if dtype == "bool"
        else np.abs(drawn).astype(dtype)
        if dtype == "uint8"
        else drawn.astype(dtype)
    )


@st.composite
def fits(draw: st.DrawFn) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """What `model_of` takes, and fit's arguments, sensible or not; `x` may be a function that makes it."""
    structure = draw(st.sampled_from(STRUCTURES))
    count = 1 if structure == "array" else 2
    # few shapes, so that models are shared: tracing one is the most of an example's time
    dtypes = tuple(draw(st.sampled_from(DTYPES if structure == "array" else ("float32", "int32"))) for _ in range(count))
    executions = draw(st.sampled_from((1, 1, 3)))
    rows = draw(st.integers(1, 17))
    parts = [values(rows, width, dtype, i) for i, (width, dtype) in enumerate(zip((2, 3), dtypes))]
    x: Any = {"array": lambda: parts[0], "tuple": lambda: tuple(parts), "dict": lambda: dict(zip("ab", parts))}[structure]()
    labels = draw(st.sampled_from(("float32", "int64", "float64")))
    arguments: dict[str, Any] = {
        "x": x,
        "y": (np.arange(rows)[:, None] % 3).astype(labels),
        "batch_size": draw(st.one_of(st.none(), st.integers(1, 9))),
        "epochs": draw(st.integers(1, 3)),
        "shuffle": draw(st.sampled_from((True, False, "batch"))),
        "verbose": 0,
    }
    maybe = {
        "validation_split": st.sampled_from((0.1, 0.34, 0.5, 0.99)),
        "class_weight": st.sampled_from(({0: 1.0, 1: 0.5, 2: 2.0}, {0: 1.0})),
        "steps_per_epoch": st.integers(1, 7),
        "initial_epoch": st.integers(0, 3),
        "validation_freq": st.sampled_from((1, 2, [1])),
        "validation_batch_size": st.integers(1, 4),
    }
    for name, strategy in maybe.items():
        if draw(st.integers(0, 3)) == 0:
            arguments[name] = draw(strategy)
    if draw(st.integers(0, 3)) == 0:
        arguments["sample_weight"] = values(rows, 1, draw(st.sampled_from(("float32", "float64"))), 9)[:, 0]
    if draw(st.integers(0, 3)) == 0:
        y, size, endless = arguments.pop("y"), arguments.pop("batch_size") or 4, draw(st.booleans())
        assume("steps_per_epoch" in arguments or not endless)
        arguments["x"] = functools.partial(shuffled, x, y, size, endless)
        arguments.pop("sample_weight", None)
    return (structure, dtypes, (2, 3)[:count], executions), arguments


def shuffled(x: Any, y: Any, size: int, endless: bool) -> tf.data.Dataset:
    made = tf.data.Dataset.from_tensor_slices((x, y)).shuffle(5).batch(size)
    return made.repeat() if endless else made


def trained(fit: Any, model: keras.Model, start: list[np.ndarray], arguments: dict[str, Any]) -> Any:
    """(every byte, History), or the error."""
    variables = [*model.variables, *model.optimizer.variables, *(v for metric in model.metrics for v in metric.variables)]
    for variable, value in zip(variables, start):
        variable.assign(value)
    keras.utils.set_random_seed(SEED)
    model.stop_training = False
    x = arguments["x"]
    try:
        history = fit(**arguments | {"x": x() if callable(x) else x})
    except (ValueError, TypeError) as error:
        return error
    return [variable.numpy().tobytes() for variable in variables], plain(history.history)


def agree(parts: tuple[Any, ...], arguments: dict[str, Any]) -> None:
    model = model_of(*parts)
    model.optimizer.build(model.trainable_variables)
    model.evaluate(
        keras.tree.map_structure(lambda each: np.ones((1, *each.shape[1:]), each.dtype), model.input),
        np.ones((1, 1)),
        verbose=0,
    )
    variables = [*model.variables, *model.optimizer.variables, *(v for metric in model.metrics for v in metric.variables)]
    start = [variable.numpy() for variable in variables]
    note(repr(parts))
    note(repr({name: value for name, value in arguments.items() if name not in ("x", "y", "sample_weight")}))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.train_function = model.test_function = None
        theirs = trained(model.fit, model, start, arguments)
        ours = trained(functools.partial(fitcore.fit, model), model, start, arguments)
    if isinstance(theirs, Exception) or isinstance(ours, Exception):
        note(f"Keras: {theirs!r}"[:500])
        note(f"fitcore: {ours!r}"[:500])
        assert isinstance(theirs, Exception)
        assert isinstance(ours, Exception)
    else:
        assert theirs == ours


@examples(12)
@given(fits())
def test_fitcore_trains_as_keras_does_or_refuses_as_it_does(drawn: tuple[tuple[Any, ...], dict[str, Any]]) -> None:
    agree(*drawn)


@pytest.mark.slow
@examples(50)
@given(fits())
def test_more_fits(drawn: tuple[tuple[Any, ...], dict[str, Any]]) -> None:
    agree(*drawn)


# --- cuts -----------------------------------------------------------------------------------------------------------------


class Six(keras.utils.PyDataset):
    def __init__(self, x: Any, y: Any, workers: int) -> None:
        super().__init__(workers=workers)
        self.x, self.y = x, y

    def __len__(self) -> int:
        return len(self.x) // 2

    def __getitem__(self, i: int) -> Any:
        return self.x[2 * i : 2 * i + 2], self.y[2 * i : 2 * i + 2]


def dataset(x: Any, y: Any, shape: str) -> tf.data.Dataset:
    """A pipeline of one letter per part: s(huffle), b(atch), r(epeat) twice, f(ilter), c(ache), p(refetch), e(ndless)."""
    made = tf.data.Dataset.from_tensor_slices((x, y))
    for letter in shape:
        parts = {
            "s": lambda d: d.shuffle(4),
            "b": lambda d: d.batch(2),
            "r": lambda d: d.repeat(2),
            "f": lambda d: d.filter(lambda x, y: True),
            "c": lambda d: d.cache(),
            "p": lambda d: d.prefetch(1),
            "e": lambda d: d.repeat(),
            "m": lambda d: d.map(lambda x, y: (x + 0.5, y)),
        }
        made = parts[letter](made)
    return made


PIPELINES = [
    f"{a}{b}b{c}{d}"
    for a in ("", "s", "sc", "ss")
    for b in ("", "s", "e", "r", "m")
    for c in ("", "s", "e", "p")
    for d in ("", "s", "f")
]


@st.composite
def cut_fits(draw: st.DrawFn) -> tuple[Any, list[int], str]:
    """(make, where to cut, how often to save)."""
    x, y = values(11, 2, "float32", 0), values(11, 1, "float32", 1)
    more: dict[str, Any] = {"epochs": draw(st.integers(1, 3))}
    kind = draw(st.sampled_from(("arrays", "dataset", "dataset", "py_dataset")))
    executions = draw(st.sampled_from((1, 1, 3)))
    if draw(st.booleans()):
        more["steps_per_epoch"] = draw(st.integers(1, 7))
    pipeline = draw(st.sampled_from(PIPELINES))
    validation = draw(st.sampled_from((None, "arrays", "sb", "ssb", "sbf")))
    if kind == "arrays":
        shuffle = draw(st.sampled_from((True, False, "batch", fitcore.Reshuffle(2))))
        more |= {"batch_size": draw(st.integers(2, 4)), "shuffle": shuffle}
    elif kind == "dataset":
        assume("e" not in pipeline or "steps_per_epoch" in more)
    else:
        more["shuffle"] = draw(st.booleans())
    workers = draw(st.sampled_from((1, 2)))
    hooks, callbacks = (
        draw(st.sets(st.sampled_from([*HOOKS]), max_size=2)),
        draw(st.sets(st.sampled_from([*CALLBACKS]), max_size=2)),
    )
    if validation is None and (hooks | callbacks) & {"restoring", "early", "reduce"}:
        validation = "sb"

    def make(folder: Path) -> dict[str, Any]:
        arguments = {"model": model_of("array", ("float32",), (2,), executions), "x": x, "y": y, **more}
        if kind == "dataset":
            arguments |= {"x": dataset(x, y, pipeline), "y": None}
        elif kind == "py_dataset":
            arguments |= {"x": Six(x, y, workers), "y": None}
        if validation is not None:
            arguments["validation_data"] = (x, y) if validation == "arrays" else dataset(x, y, validation)
        arguments["hooks"] = [HOOKS[name]() for name in sorted(hooks)]
        arguments["callbacks"] = [CALLBACKS[name](folder) for name in sorted(callbacks)]
        return arguments

    cuts = draw(st.lists(st.integers(1, 14), min_size=1, max_size=3))
    every = draw(st.sampled_from(("1 step", "2 steps", "3 steps", "5 steps", "1 epoch", "2 epochs")))
    note(repr((kind, pipeline if kind == "dataset" else workers, more, validation, hooks, callbacks, executions, cuts, every)))
    return make, cuts, every


HOOKS = {
    "smoothed": lambda: fitcore.StopOn(fitcore.Smoothed(fitcore.Patience(5), 0.5), "step/loss"),
    "budget": lambda: fitcore.StopAfter(examples=25),
    "restoring": lambda: fitcore.EarlyStopping("val_loss", 1, min_delta=0.05, restore_best=True),
}
CALLBACKS = {
    "early": lambda folder: keras.callbacks.EarlyStopping("val_loss", min_delta=0.05, patience=1, restore_best_weights=True),
    "reduce": lambda folder: keras.callbacks.ReduceLROnPlateau("val_loss", patience=1, min_delta=0.05),
    "csv": lambda folder: keras.callbacks.CSVLogger(folder / "log.csv"),
    "nan": lambda folder: keras.callbacks.TerminateOnNaN(),
    "rates": lambda folder: keras.callbacks.LearningRateScheduler(lambda epoch, rate: rate * 0.9),
}


def survives(drawn: tuple[Any, list[int], str]) -> None:
    make, cuts, every = drawn
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        case = Case(make, Path(folder))
        want = case.fit("undisturbed")
        checkpoint = {"every": every}
        for cut in cuts:
            with contextlib.suppress(Cut):
                case.fit("cut", cut, checkpoint)
        assert differing(want, case.fit("cut", None, checkpoint)) == []
        logs = [Path(folder, name, "written", "log.csv") for name in ("undisturbed", "cut")]
        assert len({path.read_bytes() if path.exists() else None for path in logs}) == 1


@examples(6)
@given(cut_fits())
def test_a_fit_can_be_cut_anywhere(drawn: tuple[Any, list[int], str]) -> None:
    survives(drawn)


@pytest.mark.slow
@examples(40)
@given(cut_fits())
def test_more_cuts(drawn: tuple[Any, list[int], str]) -> None:
    survives(drawn)
