"""numerics="fast" where numbers aren't finite: XLA's blocks are undone, and the same numbers are finite as under Keras."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import fitcore

N = 22
IMAGES = np.random.default_rng(0).normal(size=(N, 6, 6, 2)).astype("float32")
ROWS = np.random.default_rng(1).normal(size=(N, 5, 4)).astype("float32")
Y = np.random.default_rng(2).integers(0, 3, N)

BODIES: dict[str, tuple[np.ndarray, Callable[[], list[Any]]]] = {
    "dense": (ROWS, lambda: [layers.Flatten(), layers.Dense(5, "relu")]),
    "normalized, dropout": (ROWS, lambda: [layers.Dense(5, "relu"), layers.BatchNormalization(), layers.Dropout(0.3)]),
    "layer normalization": (ROWS, lambda: [layers.LayerNormalization(), layers.Dense(5, "elu")]),
    "convolution": (
        IMAGES,
        lambda: [layers.Conv2D(3, 3, activation="relu"), layers.MaxPooling2D(), layers.BatchNormalization()],
    ),
    "maximum": (IMAGES, lambda: [layers.MaxPooling2D(3, strides=1), layers.Conv2D(2, 2)]),
    "recurrent": (ROWS, lambda: [layers.LSTM(3)]),
}


def model_of(body: list[Any], shape: tuple[int, ...], optimizer: Any = None) -> keras.Model:
    model = keras.Sequential([keras.Input(shape), *body, layers.Flatten(), layers.Dense(3, "softmax")])
    model.compile(
        optimizer or keras.optimizers.SGD(0.02, momentum=0.9), "sparse_categorical_crossentropy", metrics=["accuracy"]
    )
    return model


def trained(make: Callable[[], keras.Model], x: Any, plan: str | None, **more: Any) -> tuple[list[np.ndarray], dict[str, Any]]:
    """The variables afterwards and the history; by Keras if `plan` is None."""
    keras.utils.set_random_seed(3)
    model = make()
    arguments: dict[str, Any] = {"epochs": 2, "batch_size": 4, "verbose": 0} | more
    if plan is None:
        history = model.fit(x, Y, **arguments).history
    else:
        history = fitcore.fit(model, x, Y, **arguments, numerics="fast", plan=plan).history
    return [variable.numpy() for variable in (*model.variables, *model.optimizer.variables)], history


@pytest.mark.filterwarnings("ignore:The loss is")
@pytest.mark.parametrize(
    ("name", "bad"), [*((name, np.nan) for name in BODIES), ("convolution", np.inf), ("maximum", -np.inf), ("dense", np.inf)]
)
def test_the_same_numbers_are_finite_as_under_keras(name: str, bad: float) -> None:
    x, body = BODIES[name]
    x = x.copy()
    x[13].flat[2] = bad
    make = lambda: model_of(body(), x.shape[1:])  # noqa: E731
    want, history = trained(make, x, None)
    for plan in ("graph", "xla"):
        got, found = trained(make, x, plan)
        for a, b in zip(want, got):
            np.testing.assert_array_equal(np.isfinite(a), np.isfinite(b), err_msg=plan)
            np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5, err_msg=plan)
        for key in history:
            np.testing.assert_allclose(history[key], found[key], rtol=1e-3, err_msg=plan)


def test_a_call_that_is_undone_leaves_nothing() -> None:
    """Only the last call is: what was trained before it stays."""
    x, body = BODIES["normalized, dropout"]
    keras.utils.set_random_seed(3)
    model = model_of(body(), x.shape[1:], keras.optimizers.Adam(0.01))
    engine = fitcore.Engine.of_compiled(model)
    source = fitcore.make_source(x, Y, batch_size=4, shuffle=False)
    stream = fitcore.Stream(source)
    stream.begin_epoch()
    with engine.settings(None, "fast"):
        engine.by_xla = True
        engine.train(stream, 2)
        assert engine.by_xla
        kept = [variable.numpy() for variable in (*model.variables, *model.optimizer.variables)]
        program = engine.train_program()
        bad = tf.nest.map_structure(lambda each: each * np.nan if each.dtype.is_floating else each, stream.feed)
        with pytest.raises(fitcore.finite.NotFiniteError):
            program.run(source, bad, 2, 2, 3, 1.0, {})
        for before, variable in zip(kept, (*model.variables, *model.optimizer.variables)):
            np.testing.assert_array_equal(before, variable.numpy())


class Smallest(keras.metrics.Metric):
    """Begins with infinity, which is nothing to be undone."""

    def __init__(self) -> None:
        super().__init__(name="smallest")
        self.smallest = self.add_variable((), keras.initializers.Constant(np.inf), name="smallest")
        self.unused = self.add_variable((), keras.initializers.Constant(np.inf), name="unused")

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        self.smallest.assign(keras.ops.minimum(self.smallest, keras.ops.min(y_pred)))
        self.unused.assign(self.unused + 1)

    def result(self) -> Any:
        return self.smallest


def test_an_infinity_that_was_there_before_keeps_xla(monkeypatch: pytest.MonkeyPatch) -> None:
    used = []
    run = fitcore.program.Program.run

    def noted(program: Any, *arguments: Any) -> Any:
        used.append(program._by_xla)
        return run(program, *arguments)

    monkeypatch.setattr(fitcore.program.Program, "run", noted)

    def make() -> keras.Model:
        model = keras.Sequential([keras.Input((5, 4)), layers.Flatten(), layers.Dense(3, "softmax")])
        model.compile("sgd", "sparse_categorical_crossentropy", metrics=[Smallest()])
        return model

    want, _ = trained(make, ROWS, None)
    got, _ = trained(make, ROWS, "xla")
    assert all(used)
    for a, b in zip(want, got):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-6)


def test_data_that_are_not_finite_leave_no_measured_plan(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FITCORE_CACHE", str(tmp_path / "plans.json"))
    x, body = BODIES["dense"]
    x = x.copy()
    x[:, 0, 0] = np.nan
    make = lambda: model_of(body(), x.shape[1:])  # noqa: E731
    want, _ = trained(make, x, None)
    got, _ = trained(make, x, "auto")
    assert not (tmp_path / "plans.json").exists()
    for a, b in zip(want, got):
        np.testing.assert_array_equal(np.isfinite(a), np.isfinite(b))


@pytest.mark.parametrize("plan", ["graph", "auto"])
def test_checked_numerics_find_nothing_of_ours(plan: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """And what is measured meanwhile, without XLA, is not remembered."""
    monkeypatch.setenv("FITCORE_CACHE", str(tmp_path / "plans.json"))
    x, body = BODIES["normalized, dropout"]
    make = lambda: model_of(body(), x.shape[1:])  # noqa: E731
    tf.debugging.enable_check_numerics()
    try:
        want, _ = trained(make, x, None)
        got, _ = trained(make, x, plan)
        engine = fitcore.Engine.of_compiled(make())
        stream = fitcore.Stream(fitcore.make_source(x, Y, batch_size=4, shuffle=False))
        stream.begin_epoch()
        assert engine.train(stream, 2).steps == 2  # without a limit in seconds
        with pytest.raises(ValueError, match="debugging watches each op"):
            trained(make, x, "xla")
    finally:
        tf.debugging.disable_check_numerics()
    assert not (tmp_path / "plans.json").exists()
    for a, b in zip(want, got):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
