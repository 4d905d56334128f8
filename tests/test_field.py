"""What went wrong in the field, in its plainest form: small models trained by Keras and by fitcore, and how each ended.

A net beside the tests of each part. All of it holds with oneDNN and without: the last test runs this file the other way.
"""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from cuts import Case, assert_survives
from keras import layers
from onednn_setting import other_setting

import fitcore

ROWS, BATCH = 22, 4  # the last batch of an epoch is smaller
Fit = Callable[..., keras.callbacks.History]
End = dict[str, Any]


def numbers(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype("float32")


def by_keras(model: keras.Model, *arguments: Any, **options: Any) -> keras.callbacks.History:
    return model.fit(*arguments, **options)


def compiled(*body: Any, shape: tuple[int, ...] = (4,), loss: Any = "mse", optimizer: Any = None) -> keras.Model:
    model = keras.Sequential([keras.Input(shape), *body])
    model.compile(optimizer or keras.optimizers.SGD(0.1), loss)
    return model


def trained(fit: Fit, make: Callable[[], keras.Model], x: Any, y: Any, evaluate: Any = None, **options: Any) -> End:
    """How a fit of a new model ends: {"weights": their bytes, "history": ..., or "error": the type of one that was raised}.

    With `evaluate`, what that gives of the trained model besides.
    """
    keras.utils.clear_session()
    keras.utils.set_random_seed(11)
    model = make()
    end: End = {}
    try:
        end["history"] = fit(model, x, y, **{"batch_size": BATCH, "epochs": 2, "verbose": 0} | options).history
    except Exception as error:
        end["error"] = type(error).__name__
    end["weights"] = [values.tobytes() for values in model.get_weights()]
    return end if evaluate is None else end | {"evaluated": evaluate(model, x, y, batch_size=BATCH, verbose=0)}


# --- activations that TensorFlow fuses ------------------------------------------------------------------------------------


def swiglu() -> list[Any]:
    """silu(gate) * value, as a layer."""

    class Gated(layers.Layer):
        def __init__(self) -> None:
            super().__init__()
            self.gate, self.value = layers.Dense(6, "silu"), layers.Dense(6)

        def call(self, x: Any) -> Any:
            return self.gate(x) * self.value(x)

    return [Gated()]


def silu_by_hand() -> list[Any]:
    return [layers.Dense(5), layers.Lambda(lambda x: x * keras.ops.sigmoid(x))]


FUSED: dict[str, tuple[tuple[int, ...], Callable[[], list[Any]]]] = {
    "silu": ((4,), lambda: [layers.Dense(3, "silu")]),
    "silu layers": ((4,), lambda: [layers.Dense(8), layers.Activation("silu"), layers.Dense(8), layers.Activation("silu")]),
    "silu by hand": ((4,), lambda: [*silu_by_hand(), *silu_by_hand()]),
    "swiglu": ((4,), swiglu),
    "silu convolution": ((6, 6, 2), lambda: [layers.Conv2D(3, 3, activation="silu"), layers.GlobalAveragePooling2D()]),
    "normalized silu convolution": (
        (6, 6, 2),
        lambda: [layers.Conv2D(3, 3), layers.BatchNormalization(), layers.Activation("silu"), layers.GlobalAveragePooling2D()],
    ),
    "normalized relu convolution": (
        (6, 6, 2),
        lambda: [layers.Conv2D(3, 3), layers.BatchNormalization(), layers.ReLU(), layers.GlobalAveragePooling2D()],
    ),
    "hard silu": ((4,), lambda: [layers.Dense(3, "hard_silu"), layers.Dense(3, "hard_silu")]),
    "gelu, normalized": ((4,), lambda: [layers.Dense(5, "gelu"), layers.LayerNormalization(), layers.Dense(5, "mish")]),
    "tanh": ((4,), lambda: [layers.Dense(3, "tanh")]),
    "sigmoid": ((4,), lambda: [layers.Dense(3, "sigmoid")]),
    "elu": ((4,), lambda: [layers.Dense(3, "elu")]),
}


@functools.cache
def fused_by_keras(name: str) -> End:
    return trained(by_keras, *fused(name), keras.Model.evaluate)


def fused(name: str) -> tuple[Callable[[], keras.Model], np.ndarray, np.ndarray]:
    shape, body = FUSED[name]
    return lambda: compiled(*body(), layers.Dense(2), shape=shape), numbers(ROWS, *shape), numbers(ROWS, 2)


@pytest.mark.parametrize("name", FUSED)
def test_activations_that_tensorflow_fuses(name: str) -> None:
    assert trained(fitcore.fit, *fused(name), fitcore.evaluate) == fused_by_keras(name)


@pytest.mark.parametrize("name", FUSED)
def test_noise_doesn_t_change_what_is_fused(name: str) -> None:
    assert trained(functools.partial(fitcore.fit, noise=True), *fused(name), fitcore.evaluate) == fused_by_keras(name)


def test_silu_a_step_a_call_and_without_records() -> None:
    each = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: None)
    expected = fused_by_keras("silu layers")["weights"]
    assert trained(fitcore.fit, *fused("silu layers"), callbacks=[each])["weights"] == expected
    assert trained(fitcore.fit, *fused("silu layers"), record=())["weights"] == expected


# --- a row that isn't a number --------------------------------------------------------------------------------------------


def classifier() -> keras.Model:
    body = [layers.Dense(5, "relu"), layers.BatchNormalization(), layers.Dense(3, "softmax")]
    return compiled(*body, loss="sparse_categorical_crossentropy")


def plain_classifier() -> keras.Model:
    return compiled(layers.Dense(5, "relu"), layers.Dense(3, "softmax"), loss="sparse_categorical_crossentropy")


@pytest.mark.parametrize(
    "options", [{}, {"noise": True}, *({"numerics": "fast", "plan": plan} for plan in ("graph", "xla"))], ids=str
)
@pytest.mark.parametrize("make", [classifier, plain_classifier])
@pytest.mark.filterwarnings("ignore:The loss is nan")
def test_a_row_with_a_nan(make: Callable[[], keras.Model], options: dict[str, Any]) -> None:
    x, y = numbers(ROWS, 4), np.arange(ROWS) % 3
    x[13, 2] = np.nan
    want, got = (trained(fit, make, x, y, epochs=1)["weights"] for fit in (by_keras, functools.partial(fitcore.fit, **options)))
    tolerance = 1e-5 if options.get("numerics") == "fast" else 0.0
    for one, other in zip(want, got):
        np.testing.assert_allclose(np.frombuffer(other, "float32"), np.frombuffer(one, "float32"), tolerance, tolerance)


# --- what noise couldn't do -----------------------------------------------------------------------------------------------


class Clips(layers.Layer):
    """Assigns to a variable of its own while it is called."""

    def build(self, shape: Any) -> None:
        self.high = self.add_weight(shape=(), initializer="ones", trainable=False)
        self.scale = self.add_weight(shape=(shape[-1],), initializer="ones")

    def call(self, x: Any, training: bool | None = None) -> Any:
        if training:
            self.high.assign(0.95 * self.high + 0.05 * keras.ops.max(keras.ops.abs(x)))
        return keras.ops.clip(x, -self.high, self.high) * self.scale


class Draws(layers.Layer):
    def build(self, shape: Any) -> None:
        self.scale = self.add_weight(shape=(shape[-1],), initializer="ones")
        self.draws = keras.random.SeedGenerator(4)

    def call(self, x: Any, training: bool | None = None) -> Any:
        return (x + keras.random.normal(keras.ops.shape(x), seed=self.draws)) * self.scale


def unet() -> list[Any]:
    down = [layers.Conv2D(4, 3, strides=2, padding="same"), layers.BatchNormalization()]
    return [*down, layers.Conv2DTranspose(3, 3, strides=2, padding="same", activation="softmax")]


HARD_TO_MEASURE: dict[str, tuple[tuple[int, ...], Callable[[], list[Any]]]] = {
    "u-net": ((8, 8, 2), unet),
    "spectral": ((4,), lambda: [layers.SpectralNormalization(layers.Dense(3, "relu"))]),
    "spectral convolution": ((4, 4, 1), lambda: [layers.SpectralNormalization(layers.Conv2D(2, 2)), layers.Flatten()]),
    "assigns": ((4,), lambda: [Clips()]),
    "draws": ((4,), lambda: [Draws()]),
}


@pytest.mark.parametrize("rows", [20, 22])
@pytest.mark.parametrize("name", HARD_TO_MEASURE)
def test_noise_of_layers_that_are_hard_to_measure(name: str, rows: int) -> None:
    shape, body = HARD_TO_MEASURE[name]
    x = numbers(rows, *shape)
    y = x[..., :1].reshape(rows, -1)[:, :1] if name != "u-net" else np.random.default_rng(1).integers(0, 3, (rows, 8, 8))

    def make() -> keras.Model:
        if name == "u-net":
            return compiled(*body(), shape=shape, loss="sparse_categorical_crossentropy")
        return compiled(*body(), layers.Dense(1), shape=shape)

    want = trained(by_keras, make, x, y)
    assert "error" not in want
    assert trained(functools.partial(fitcore.fit, noise=True), make, x, y) == want


# --- state that is none of Keras's lists ----------------------------------------------------------------------------------


class TwoOptimizers(keras.Model):
    """An optimizer for each half, and a plain variable in the step."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = layers.Dense(3), layers.Dense(1)
        self.first.build((None, 4))
        self.second.build((None, 3))
        self.built = True
        self.drift = tf.Variable(0.0, trainable=False)

    def compile(self, first: Any, second: Any) -> None:
        super().compile()
        self.optimizers = [first, second]

    def call(self, x: Any) -> Any:
        return self.second(self.first(x))

    def train_step(self, batch: Any) -> dict[str, Any]:
        x, y = batch
        with tf.GradientTape(persistent=True) as tape:
            loss = tf.reduce_mean((self(x) - y - self.drift) ** 2)
        for layer, optimizer in zip((self.first, self.second), self.optimizers):
            weights = layer.trainable_weights
            optimizer.apply_gradients(zip(tape.gradient(loss, weights), weights))
        self.drift.assign(0.5 * self.drift + 0.1 * loss)
        return {"loss": loss}


class Centered(keras.losses.Loss):
    """A loss that remembers: called once more than Keras does, it is another loss."""

    def __init__(self) -> None:
        super().__init__()
        self.center = tf.Variable(0.0, trainable=False)

    def call(self, y: Any, predicted: Any) -> Any:
        self.center.assign(0.5 * self.center + 0.5 * tf.reduce_mean(tf.stop_gradient(predicted)))
        return tf.reduce_mean((predicted - y - self.center) ** 2, -1)


def two_optimizers() -> keras.Model:
    model = TwoOptimizers()
    model.compile(keras.optimizers.Adam(0.05), keras.optimizers.SGD(0.05, momentum=0.9))
    return model


def centered() -> keras.Model:
    return compiled(layers.Dense(1), loss=Centered())


REMEMBERS = pytest.mark.parametrize("make", [two_optimizers, centered])


@REMEMBERS
def test_state_outside_the_model_s_lists_is_saved(make: Callable[[], keras.Model], tmp_path: Path) -> None:
    def arguments(folder: Path) -> dict[str, Any]:
        return {"model": make(), "x": numbers(20, 4), "y": numbers(20, 1), "batch_size": BATCH, "epochs": 3}

    assert_survives(Case(arguments, tmp_path, fresh=True), 6)


@REMEMBERS
@pytest.mark.parametrize("plan", ["auto", "graph", "xla"])
def test_measuring_plans_leaves_that_state_alone(
    make: Callable[[], keras.Model], plan: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FITCORE_CACHE", str(tmp_path / "plans.json"))  # no plan is remembered, hence they are measured
    x, y = numbers(20, 4), numbers(20, 1)
    want = trained(by_keras, make, x, y, epochs=3)
    got = trained(functools.partial(fitcore.fit, numerics="fast", plan=plan), make, x, y, epochs=3)
    for one, other in zip(want["weights"], got["weights"]):
        np.testing.assert_allclose(np.frombuffer(other, "float32"), np.frombuffer(one, "float32"), 1e-4, 1e-5)


@pytest.mark.parametrize("noise", [True, "split"])
def test_noise_leaves_a_loss_that_remembers_alone(noise: Any) -> None:
    x, y = numbers(20, 4), numbers(20, 1)
    measured = fitcore.GradientNoise("split", splits=2) if noise == "split" else noise
    got = trained(functools.partial(fitcore.fit, noise=measured), centered, x, y)
    assert got == trained(by_keras, centered, x, y)


# --- when to stop ---------------------------------------------------------------------------------------------------------


class Stops(keras.callbacks.Callback):
    """Sets `stop_training` in the method of this name."""

    def __init__(self, method: str) -> None:
        super().__init__()
        setattr(self, method, self._stop)

    def _stop(self, *arguments: Any, **more: Any) -> None:
        self.model.stop_training = True


class Raises(Stops):
    """Raises StopIteration, which Keras takes for the end of the data where that is read."""

    def _stop(self, *arguments: Any, **more: Any) -> None:
        raise StopIteration


@pytest.mark.parametrize("method", ["on_train_begin", "on_epoch_begin", "on_train_batch_end", "on_epoch_end"])
@pytest.mark.parametrize("kind", [Stops, Raises])
@pytest.mark.filterwarnings("ignore:Your input ran out of data")
def test_callbacks_that_end_training(kind: Callable[[str], keras.callbacks.Callback], method: str) -> None:
    want, got = (
        trained(fit, lambda: compiled(layers.Dense(1)), numbers(20, 4), numbers(20, 1), epochs=3, callbacks=[kind(method)])
        for fit in (by_keras, fitcore.fit)
    )
    assert want.get("error", "StopIteration") == "StopIteration"
    assert got == want


# --- Keras's own compiled functions, made again ---------------------------------------------------------------------------


def evaluated_after_quantize(evaluate: Callable[..., Any]) -> Any:
    keras.utils.clear_session()
    keras.utils.set_random_seed(0)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model = compiled(layers.Dense(16, "relu"), layers.Dense(3), shape=(8,), loss=loss)
    x, y = numbers(24, 8), np.arange(24) % 3
    before = evaluate(model, x, y, verbose=0)
    model.quantize("int8")
    return before, evaluate(model, x, y, verbose=0)


def test_evaluate_after_quantize() -> None:
    want = evaluated_after_quantize(keras.Model.evaluate)
    assert want[0] != want[1]
    assert evaluated_after_quantize(fitcore.evaluate) == want
    with fitcore.patch_keras():
        assert evaluated_after_quantize(lambda model, *data, **options: model.evaluate(*data, **options)) == want


class Thaws(keras.callbacks.Callback):
    """Compiles the model anew within its fit."""

    def __init__(self, make: bool) -> None:
        super().__init__()
        self._make = make

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        if epoch == 1:
            self.model.layers[0].trainable = True
            self.model.compile(keras.optimizers.SGD(0.01), "mse")
            if self._make:
                self.model.make_train_function()


def half_frozen() -> keras.Model:
    model = compiled(layers.Dense(3), layers.Dense(1))
    model.layers[0].trainable = False
    model.compile(keras.optimizers.SGD(0.1), "mse")
    return model


@pytest.mark.parametrize("make", [True, False], ids=["and its step made", "alone"])
def test_compile_in_a_callback(make: bool) -> None:
    want, got = (
        trained(fit, half_frozen, numbers(20, 4), numbers(20, 1), epochs=3, callbacks=[Thaws(make)])
        for fit in (by_keras, fitcore.fit)
    )
    assert ("error" in want) == (not make)
    assert got == want


def by_force(model: keras.Model) -> None:
    model.make_train_function(force=True)


def forgotten(model: keras.Model) -> None:
    model.train_function = None


def other_optimizer(model: keras.Model) -> None:
    model.optimizer = keras.optimizers.SGD(0.01)
    model.optimizer.build(model.trainable_variables)


def nothing(model: keras.Model) -> None:
    """The step that Keras has stays as it was traced."""


@pytest.mark.parametrize("between", [by_force, forgotten, other_optimizer, nothing])
def test_the_step_is_made_again_when_keras_makes_it_again(between: Callable[[keras.Model], None]) -> None:
    def twice(fit: Fit) -> Any:
        keras.utils.clear_session()
        keras.utils.set_random_seed(0)
        model, x, y = half_frozen(), numbers(20, 4), numbers(20, 1)
        model.layers[0].trainable = True
        model.optimizer.build(model.trainable_variables)
        model.layers[0].trainable = False
        for change in (nothing, between):
            model.layers[0].trainable = change is between
            change(model)
            fit(model, x, y, batch_size=BATCH, verbose=0)
        return [values.tobytes() for values in model.get_weights()], int(model.optimizer.iterations)

    assert twice(fitcore.fit) == twice(by_keras)


@pytest.mark.parametrize("normalized", [True, False])
def test_full_batches_that_grow(normalized: bool) -> None:
    def rounds(fit: Fit) -> Iterator[Any]:
        keras.utils.clear_session()
        keras.utils.set_random_seed(11)
        body = [layers.Dense(6, "relu"), *([layers.BatchNormalization()] if normalized else []), layers.Dense(3, "softmax")]
        model = compiled(*body, optimizer=keras.optimizers.Adam(0.02), loss="sparse_categorical_crossentropy")
        x, y = numbers(60, 4), np.random.default_rng(1).integers(0, 3, 60)
        for rows in range(5, 41, 5):
            losses = fit(model, x[:rows], y[:rows], batch_size=rows, epochs=2, verbose=0).history
            yield rows, losses, [values.tobytes() for values in model.get_weights()]

    for want, got in zip([*rounds(by_keras)], [*rounds(fitcore.fit)]):
        assert got == want


# --- the rest -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("plan", ["auto", "graph", "xla"])
@pytest.mark.parametrize("rows", [24, 22])
def test_each_output_s_loss_in_the_fast_tier(rows: int, plan: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FITCORE_CACHE", str(tmp_path / "plans.json"))

    def make() -> keras.Model:
        inputs = keras.Input((5,))
        model = keras.Model(inputs, {"p": layers.Dense(1, name="p")(inputs), "q": layers.Dense(2, name="q")(inputs)})
        model.compile("sgd", {"p": "mse", "q": "mae"}, metrics={"p": ["mae"], "q": []})
        return model

    x, y = numbers(rows, 5), {"p": numbers(rows, 1), "q": numbers(rows, 2)}
    want = trained(by_keras, make, x, y, epochs=3)["history"]
    got = trained(functools.partial(fitcore.fit, numerics="fast", plan=plan), make, x, y, epochs=3)["history"]
    assert sorted(got) == sorted(want)
    for name in want:
        np.testing.assert_allclose(got[name], want[name], rtol=1e-4, err_msg=name)


@pytest.mark.filterwarnings("ignore:Your input ran out of data")
def test_an_empty_validation_set() -> None:
    x, y = numbers(20, 4), numbers(20, 1)
    empty = tf.data.Dataset.from_tensor_slices((x[:8], y[:8])).batch(16, drop_remainder=True)
    want, got = (
        trained(fit, lambda: compiled(layers.Dense(1)), x, y, validation_data=empty) for fit in (by_keras, fitcore.fit)
    )
    assert "error" not in want
    assert got == want


def test_validation_data_without_targets_are_named() -> None:
    x, y = numbers(20, 4), numbers(20, 1)
    with pytest.raises(ValueError, match="validation_data"):
        fitcore.fit(compiled(layers.Dense(1)), x, y, validation_data=x, verbose=0)


@pytest.mark.parametrize("options", [{}, {"noise": True}, {"numerics": "fast"}], ids=str)
def test_check_numerics(options: dict[str, Any]) -> None:
    """Where plain fit trains, so does fitcore: nothing in the data or the weights is other than finite."""
    tf.debugging.enable_check_numerics()
    try:
        x, y = numbers(ROWS, 4), np.arange(ROWS) % 3
        want = trained(by_keras, classifier, x, y)
        got = trained(functools.partial(fitcore.fit, **options), classifier, x, y)
    finally:
        tf.debugging.disable_check_numerics()
    assert "error" not in want
    assert "error" not in got
    if "numerics" not in options:
        assert got == want


@pytest.mark.slow
def test_all_of_it_with_the_other_setting_of_onednn() -> None:
    tests = [sys.executable, "-m", "pytest", "-q", "-n", "0", __file__]
    ended = subprocess.run(tests, env=os.environ | other_setting(), capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout[-5000:]
