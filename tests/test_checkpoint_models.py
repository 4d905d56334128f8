"""A fit of any model, with any hook, can be cut: started again, it ends in the bits of one that never was."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from cut_fits import EPOCH, ROWS, arrays, compiled, plain_model
from cuts import Case, assert_survives
from keras import layers
from models import data, noisy

import fitcore


class Own(keras.Model):
    """A step of its own, with a metric of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.dense = layers.Dense(1)
        self.drop = layers.Dropout(0.5)
        self.seen = keras.metrics.Sum("seen")

    def call(self, x: Any, training: bool = False) -> Any:
        return self.drop(self.dense(x), training=training)

    def train_step(self, batch: Any) -> dict[str, Any]:
        x, y = batch
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((self(x, training=True) - y) ** 2)
        self.optimizer.apply_gradients(zip(tape.gradient(loss, self.trainable_variables), self.trainable_variables))
        self.seen.update_state(loss)
        return {"loss": loss, "seen": self.seen.result()}

    @property
    def metrics(self) -> list[Any]:
        return [self.seen]


def own() -> keras.Model:
    model = Own()
    model.build((None, 3))
    model.compile(keras.optimizers.Adam(0.01), "mse")
    return model


def several() -> keras.Model:
    """Two outputs with losses and metrics of their own, one of them a vector."""
    inputs = keras.Input((3,))
    outputs = {"a": layers.Dense(1, name="a")(inputs), "b": layers.Dense(2, "softmax", name="b")(inputs)}
    model = keras.Model(inputs, outputs)
    f1 = keras.metrics.F1Score(average=None)
    model.compile("adam", {"a": "mse", "b": "categorical_crossentropy"}, metrics={"a": ["mae", "mse"], "b": [f1]})
    return model


def mixed() -> keras.Model:
    keras.config.set_dtype_policy("mixed_float16")
    return compiled(
        keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(0.01), initial_scale=2.0**20, dynamic_growth_steps=3)
    )


def explicit(optimizer: Any, **more: Any) -> fitcore.Engine:
    model = keras.Sequential([keras.Input((3,)), layers.Dense(4, activation="relu"), layers.Dropout(0.2), layers.Dense(1)])
    loss, metrics = keras.losses.MeanSquaredError(), [keras.metrics.MeanAbsoluteError()]
    return fitcore.Engine(model, optimizer=optimizer, loss=loss, metrics=metrics, **more)


def labels() -> dict[str, np.ndarray]:
    y = data(ROWS)[1]
    return {"a": y, "b": np.concatenate([y > 0, y <= 0], axis=1).astype("float32")}


OPT = keras.optimizers
MODELS: dict[str, tuple[Callable[[], Any], dict[str, Any]]] = {
    "ema": (lambda: compiled(OPT.AdamW(0.01, use_ema=True, ema_overwrite_frequency=3, clipnorm=0.5)), {}),
    "accumulating": (lambda: compiled(OPT.Adam(0.01, gradient_accumulation_steps=3)), {}),
    "mixed_float16": (mixed, {}),
    "adascale": (lambda: compiled(fitcore.optimizers.AdaScaleSGD(0.05, base_batch_size=2, momentum=0.9)), {}),
    "norm_test": (lambda: compiled(fitcore.optimizers.NormTestSGD(0.05)), {}),
    "chain": (
        lambda: explicit(
            fitcore.optimizers.Chain(fitcore.optimizers.trace(0.8), fitcore.optimizers.scale_by_adam(), learning_rate=0.01)
        ),
        {"validation_split": 0.2},
    ),
    "schedule_of_engine": (
        lambda: explicit(OPT.SGD(0.1), schedule=lambda step, base: base / (1 + tf.cast(step, tf.float32))),
        {},
    ),
    "own_train_step": (own, {}),
    "several_outputs": (several, {"y": labels()}),
    "steps_per_execution": (
        lambda: compiled(steps_per_execution=4),
        {"callbacks": [keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: None)]},
    ),
    "eager": (lambda: compiled(run_eagerly=True, body=[layers.Dropout(0.5), layers.Dense(1)]), {"epochs": 2}),
    "schedule": (compiled, {"schedule": fitcore.make("schedule", "warmup:5,cosine:20")}),
    "several_schedules": (
        compiled,
        {"schedule": {"momentum": lambda step, base: base * 0.9, "batch_size": lambda step: 2 + step // 3}},
    ),
    "each_epoch": (compiled, {"schedule": fitcore.EachEpoch(lambda epoch, rate: 0.5 * rate)}),
    "own_record": (
        compiled,
        {
            "record": {
                "two": lambda seen: tf.stack([seen.loss, 2 * seen.loss]),
                "step/gradient_norm": fitcore.RECORDERS["step/gradient_norm"],
            }
        },
    ),
    "no_record": (compiled, {"record": ()}),
}


def stateful() -> keras.Model:
    """Its layer goes on from batch to batch, and from epoch to epoch."""
    body = [layers.Reshape((3, 1)), layers.GRU(4, stateful=True), layers.Dense(1)]
    model = keras.Sequential([keras.Input(batch_shape=(4, 3)), *body])
    model.compile("adam", "mse")
    return model


@pytest.mark.parametrize("name", MODELS)
def test_any_model(name: str, tmp_path: Path) -> None:
    make_model, arguments = MODELS[name]
    model = make_model()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*EpochRates")
        assert_survives(
            Case(lambda folder: arrays(model=model) | arguments, tmp_path), [3, EPOCH + 2], again=name == "own_train_step"
        )


def unbuilt() -> keras.Model:
    model = keras.Sequential(
        [layers.Dense(4, activation="relu"), layers.BatchNormalization(), layers.Dropout(0.3), layers.Dense(1)]
    )
    model.compile("adam", "mse", metrics=["mae"])
    return model


@pytest.mark.parametrize("make", [unbuilt, noisy], ids=["unbuilt", "built"])
def test_a_model_new_in_each_process(make: Callable[[], keras.Model], tmp_path: Path) -> None:
    assert_survives(Case(lambda folder: arrays(model=make(), epochs=2), tmp_path, fresh=True), [3, EPOCH + 1])


def test_the_states_of_a_stateful_layer(tmp_path: Path) -> None:
    x, y = data(20)  # its batches are all of one size
    assert_survives(Case(lambda folder: arrays(model=stateful(), x=x, y=y, epochs=2), tmp_path, fresh=True), [3, 6])


# --- hooks ----------------------------------------------------------------------------------------------------------------


class Asking(fitcore.Hook):
    """Every four steps: evaluates, keeps the weights, changes the learning rate; at the end wants the kept ones back."""

    when = fitcore.every(4)

    def __init__(self) -> None:
        self.evaluations: list[float] = []

    def after_steps(self, view: fitcore.View) -> Any:
        self.evaluations.append(view.evaluation.get("val_loss", -1.0))
        requests = [fitcore.Evaluate(), fitcore.Set("learning_rate", 0.001 * (view.step + len(self.evaluations)))]
        return [*requests, fitcore.Keep()] if view.step == 8 else requests

    def after_epoch(self, view: fitcore.View) -> Any:
        return [fitcore.Restore(), fitcore.Stop("enough")] if view.epoch == 1 else None

    def state(self) -> dict[str, Any]:
        return {**super().state(), "evaluations": self.evaluations}

    def load_state(self, state: dict[str, Any]) -> None:
        super().load_state(state)
        self.evaluations = state["evaluations"]


HOOKS: dict[str, Callable[[], dict[str, Any]]] = {
    "norm_test": lambda: {
        "hooks": [fitcore.InLoop(fitcore.NormTest(theta=1.0, most=16))],
        "noise": fitcore.GradientNoise(per_layer=True),
    },
    "stop_on_step": lambda: {"hooks": [fitcore.StopOn(fitcore.Smoothed(fitcore.Patience(9, 9.0), 0.9), "step/loss")]},
    "early_stopping": lambda: {"hooks": [fitcore.EarlyStopping("val_loss", 2, min_delta=0.3, restore_best=True)], "epochs": 5},
    "stop_after": lambda: {"hooks": [fitcore.StopAfter(examples=40)]},
    "plateau": lambda: {"hooks": [fitcore.Plateau("val_loss", patience=1, min_delta=0.5)], "epochs": 4},
    "asking": lambda: {"hooks": [Asking()]},
    "batch_size": lambda: {"batch_size": growing},
}


def growing(step: tf.Tensor) -> tf.Tensor:
    return 2 + step % 3


@pytest.mark.parametrize("name", HOOKS)
def test_any_hook(name: str, tmp_path: Path) -> None:
    make = lambda folder: arrays(model=plain_model(), validation_split=0.1) | HOOKS[name]()  # noqa: E731
    assert_survives(Case(make, tmp_path), [3, EPOCH + 1, ("on_train_end", 1)], every="1 step")
