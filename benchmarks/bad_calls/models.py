"""Models, and how they were compiled."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from benchmarks.bad_calls.setup import (
    LABELS,
    Bad,
    Picky,
    Unforeseen,
    X,
    Y,
    classifier,
    compiled,
    dataset,
    linear,
    two_outputs,
    uncompiled,
)

# Why fitcore refuses what Keras takes without a word, beside the reasons in setup.py.
NO_STEP = "nothing would be trained"
NO_LOGS = "Keras's own `fit` and `evaluate` fail on it"
NOT_THE_END = "Keras takes it for the end of the data, and the error is lost"


def of_class(run_eagerly: bool = False, steps_per_execution: int = 1, **methods: Any) -> keras.Model:
    """A linear model whose class has these methods."""
    kind = type("Own", (keras.Model,), methods)
    inputs = keras.Input((3,))
    model = kind(inputs, layers.Dense(1)(inputs))
    return compiled(model, run_eagerly=run_eagerly, steps_per_execution=steps_per_execution)


def fails(*_: Any, **__: Any) -> Any:
    raise Unforeseen(7, where="a method")


def fails_pickily(*_: Any, **__: Any) -> Any:
    raise Picky(7, where="a method")


def ends_the_data(y_true: Any, y_pred: Any) -> Any:
    """A loss whose op fails as an iterator does at its end."""
    return tf.reduce_mean(y_pred) + next(iter(tf.data.Dataset.from_tensors(0.0).take(0)))


def with_a_layer(call: Any) -> keras.Model:
    """A Sequential model with a layer that calls this."""
    layer = type("Own", (layers.Layer,), {"call": call, "compute_output_shape": lambda self, shape: shape})()
    return compiled(keras.Sequential([keras.Input((3,)), layers.Dense(1), layer]))


def fails_when_run(y_true: Any, y_pred: Any) -> Any:
    return tf.reduce_mean(tf.debugging.check_numerics((y_true - y_pred) / 0.0, "by zero"))


def of_another_model() -> keras.optimizers.Optimizer:
    """An optimizer with variables for the weights of another model."""
    optimizer = keras.optimizers.Adam()
    optimizer.build(uncompiled().trainable_variables)
    return optimizer


def without_build() -> keras.Model:
    """A subclassed model whose call goes wrong with the data."""
    return compiled(type("Own", (keras.Model,), {"call": lambda self, x: x["a"]})())


CALLS = [
    Bad("not compiled", lambda by: by.fit(uncompiled(), X, Y)),
    Bad("compiled without a loss", lambda by: by.fit(linear(loss=None), X, Y)),
    Bad("compiled without an optimizer", lambda by: by.fit(linear(optimizer=None), X, Y)),
    Bad("an optimizer of another model", lambda by: by.fit(linear(optimizer=of_another_model()), X, Y)),
    Bad("a loss that raises", lambda by: by.fit(linear(loss=fails), X, Y)),
    Bad("a loss of one argument", lambda by: by.fit(linear(loss=lambda y: y), X, Y)),
    Bad("a loss that returns None", lambda by: by.fit(linear(loss=lambda y, p: None), X, Y)),
    Bad("a loss that returns text", lambda by: by.fit(linear(loss=lambda y, p: "much"), X, Y)),
    Bad("a loss without gradient", lambda by: by.fit(linear(loss=lambda y, p: tf.reduce_mean(y)), X, Y)),
    Bad("a loss of whole numbers", lambda by: by.fit(linear(loss=lambda y, p: tf.cast(p, tf.int32)), X, Y)),
    Bad("a loss that fails when it runs", lambda by: by.fit(linear(loss=fails_when_run), X, Y)),
    Bad(
        "a loss that fails when it runs, in XLA",
        lambda by: by.fit(linear(loss=lambda y, p: tf.strings.length("a"), jit_compile=True), X, Y),
    ),
    Bad("a loss whose op runs out of data", lambda by: by.fit(linear(loss=ends_the_data), X, Y), NOT_THE_END),
    Bad(
        "a loss for an output that isn't there",
        lambda by: by.fit(two_outputs(loss={"a": "mse", "c": "mse"}), X, {"a": Y, "b": Y}),
    ),
    Bad("three losses for two outputs", lambda by: by.fit(two_outputs(loss=["mse", "mse", "mse"]), X, {"a": Y, "b": Y})),
    Bad("two losses for one output", lambda by: by.fit(linear(loss=["mse", "mse"]), X, Y)),
    Bad(
        "loss_weights for an output that isn't there",
        lambda by: by.fit(two_outputs(loss_weights={"c": 1.0}), X, {"a": Y, "b": Y}),
    ),
    Bad("a loss of another name", lambda by: by.fit(linear(loss="mean_sqared_error"), X, Y)),
    Bad("a metric that raises", lambda by: by.fit(linear(metrics=[fails]), X, Y)),
    Bad("a metric of one argument", lambda by: by.fit(linear(metrics=[lambda y: y]), X, Y)),
    Bad("a metric of another name", lambda by: by.fit(linear(metrics=["mea"]), X, Y)),
    Bad("a metric for an output that isn't there", lambda by: by.fit(two_outputs(metrics={"c": "mae"}), X, {"a": Y, "b": Y})),
    Bad("no weight to train", lambda by: by.fit(compiled(keras.Sequential([keras.Input((1,)), layers.Flatten()])), Y, Y)),
    Bad("a layer that raises", lambda by: by.fit(with_a_layer(fails), X, Y)),
    Bad("a layer that raises a ValueError", lambda by: by.fit(with_a_layer(lambda self, x: int("one")), X, Y)),
    Bad(
        "a layer that fails when it runs",
        lambda by: by.fit(with_a_layer(lambda self, x: tf.reshape(x, [tf.shape(x)[0], 7])), X, Y),
    ),
    Bad(
        "a layer that uses a tensor as a bool",
        lambda by: by.fit(with_a_layer(lambda self, x: x if bool(x[0, 0] > 0) else -x), X, Y),
    ),
    Bad("a layer that asks for an array's value", lambda by: by.fit(with_a_layer(lambda self, x: x * float(np.mean(x))), X, Y)),
    Bad("a call that looks for another input", lambda by: by.fit(without_build(), X, Y)),
    Bad(
        "a call that raises, run eagerly",
        lambda by: by.fit(compiled(type("Own", (keras.Model,), {"call": fails})(), run_eagerly=True), X, Y),
    ),
    Bad("labels beyond the classes, run eagerly", lambda by: by.fit(classifier(run_eagerly=True), X, LABELS + 1)),
    Bad("a train_step that raises", lambda by: by.fit(of_class(train_step=fails), X, Y)),
    Bad(
        "a train_step that raises an error of TensorFlow's",
        lambda by: by.fit(of_class(train_step=lambda self, data: tf.constant("a") + 1), X, Y),
    ),
    Bad("a train_step that returns None", lambda by: by.fit(of_class(train_step=lambda self, data: None), X, Y)),
    Bad("a train_step that returns a number", lambda by: by.fit(of_class(train_step=lambda self, data: 1.0), X, Y)),
    Bad("a train_step without argument", lambda by: by.fit(of_class(train_step=lambda self: {}), X, Y)),
    Bad("a train_step that returns an empty dict", lambda by: by.fit(of_class(train_step=lambda self, data: {}), X, Y)),
    Bad(
        "a train_step that returns None, run eagerly",
        lambda by: by.fit(of_class(run_eagerly=True, train_step=lambda self, data: None), X, Y),
    ),
    Bad(
        "a train_step that returns None, two steps per execution",
        lambda by: by.fit(of_class(steps_per_execution=2, train_step=lambda self, data: None), X, Y),
    ),
    Bad(
        "train_on_batch by a train_step that returns None",
        lambda by: by.train_on_batch(of_class(train_step=lambda self, data: None), X, Y),
        NO_LOGS,
    ),
    Bad(
        "train_on_batch by a train_step that returns a number",
        lambda by: by.train_on_batch(of_class(train_step=lambda self, data: 1.0), X, Y),
    ),
    Bad("evaluate by a test_step that returns None", lambda by: by.evaluate(of_class(test_step=lambda self, data: None), X, Y)),
    Bad(
        "evaluate by a test_step that returns a number",
        lambda by: by.evaluate(of_class(test_step=lambda self, data: 1.0), X, Y),
    ),
    Bad(
        "test_on_batch by a test_step that returns None",
        lambda by: by.test_on_batch(of_class(test_step=lambda self, data: None), X, Y),
        NO_LOGS,
    ),
    Bad("evaluate with steps_per_execution=0", lambda by: by.evaluate(linear(steps_per_execution=0), X, Y)),
    Bad("a test_step that raises", lambda by: by.fit(of_class(test_step=fails), X, Y, validation_data=(X, Y))),
    Bad(
        "a test_step that returns None",
        lambda by: by.fit(of_class(test_step=lambda self, data: None), X, Y, validation_data=(X, Y)),
    ),
    Bad("a compute_loss that raises", lambda by: by.fit(of_class(compute_loss=fails), X, Y)),
    Bad(
        "a compute_loss that raises a ValueError of its own, and no `y`",
        lambda by: by.fit(of_class(compute_loss=fails_pickily), X),
    ),
    Bad("a compute_loss that returns None", lambda by: by.fit(of_class(compute_loss=lambda self, **_: None), X, Y)),
    Bad("a compute_metrics that raises", lambda by: by.fit(of_class(compute_metrics=fails), X, Y)),
    Bad("a compute_metrics that returns None", lambda by: by.fit(of_class(compute_metrics=lambda self, *_, **__: None), X, Y)),
    Bad("a schedule that raises", lambda by: by.fit(linear(optimizer=keras.optimizers.SGD(fails)), X, Y)),
    Bad("steps_per_execution=0", lambda by: by.fit(linear(steps_per_execution=0), X, Y)),
    Bad("steps_per_execution=-1", lambda by: by.fit(linear(steps_per_execution=-1), X, Y), NO_STEP),
    Bad('steps_per_execution="2"', lambda by: by.fit(linear(steps_per_execution="2"), X, Y)),
    Bad("steps_per_execution=1.5", lambda by: by.fit(linear(steps_per_execution=1.5), X, Y)),
    Bad(
        "steps_per_execution=0, a dataset of unknown size",
        lambda by: by.fit(linear(steps_per_execution=0), dataset().filter(lambda *_: True)),
        NO_STEP,
    ),
]
