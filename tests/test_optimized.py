"""A step is optimized alone, as Keras's call per step is, and then run in a loop: by `keras_private.optimized`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from tensorflow.python.eager import context

import fitcore
from fitcore import keras_private
from fitcore.program import Program

X = np.random.default_rng(0).normal(size=(22, 6)).astype("float32")
FLOATS = tf.TensorSpec([None], tf.float32)


def in_a_loop(function: Any, value: tf.Tensor, times: int = 3) -> Any:
    """What the function gives when it is called over and over on its own result, optimized beforehand."""
    ready = keras_private.optimized(function, [FLOATS], over_replicas=False)
    assert ready is not None

    @tf.function(autograph=False)
    def loop(value: tf.Tensor) -> Any:
        body = lambda i, value: (i + 1, tf.ensure_shape(ready(value), [None]))  # noqa: E731
        return tf.while_loop(lambda i, _: i < times, body, (0, value), (tf.TensorShape([]), tf.TensorShape([None])))[1]

    with keras_private.not_optimized_again():
        return loop(value)


def test_nothing_is_run() -> None:
    called = []
    state = tf.Variable(1.0)

    @tf.function
    def step(value: tf.Tensor) -> tf.Tensor:
        state.assign_add(tf.reduce_sum(value))
        tf.py_function(lambda: called.append(1), [], [])
        return value + state

    assert keras_private.optimized(step, [FLOATS], over_replicas=False) is not None
    assert not called
    assert state.numpy() == 1


def test_side_effects_happen_in_their_order_each_time() -> None:
    first, second, called = tf.Variable(1.0), tf.Variable(0.0), []

    @tf.function
    def step(value: tf.Tensor) -> tf.Tensor:
        first.assign(first * 2)
        second.assign_add(first)  # nobody reads it
        tf.py_function(lambda: called.append(1), [], [])
        return value + first

    assert in_a_loop(step, tf.zeros([2])).numpy().tolist() == [14, 14]  # 2 + 4 + 8
    assert (first.numpy(), second.numpy(), len(called)) == (8, 14, 3)


def test_branches_and_loops_in_a_step() -> None:
    """The ops of a branch that isn't taken never run: nothing may wait for them."""
    state = tf.Variable(0.0)

    @tf.function
    def step(value: tf.Tensor) -> tf.Tensor:
        tf.cond(tf.reduce_sum(value) < 5, lambda: state.assign_add(1.0), lambda: state.assign_add(10.0))
        return tf.while_loop(lambda i, v: i < 2, lambda i, v: (i + 1, v + 1), (0, value))[1]

    assert in_a_loop(step, tf.zeros([2])).numpy().tolist() == [6, 6]
    assert state.numpy() == 12  # sums 0, 4, 8


def test_functions_that_are_called_stay_functions() -> None:
    """TensorFlow makes another function of one that is called with a constant, and doesn't hand that over."""

    @tf.function(experimental_attributes={"_noinline": True})
    def called(value: tf.Tensor, by: tf.Tensor) -> tf.Tensor:
        return tf.nn.relu(value * by)

    assert in_a_loop(tf.function(lambda value: called(value, tf.constant(2.0))), tf.ones([2])).numpy().tolist() == [8, 8]


def test_arguments_of_all_kinds() -> None:
    spec = {"words": tf.TensorSpec([None], tf.string), "rows": tf.RaggedTensorSpec([None, None], tf.int64), "none": None}
    function = tf.function(lambda a: (tf.strings.length(a["words"]), a["rows"] * 2, a["words"]), autograph=False)
    ready = keras_private.optimized(function, [spec], over_replicas=False)
    assert ready is not None
    given = {"words": tf.constant(["a", "bcd"]), "rows": tf.ragged.constant([[1], [2, 3]], tf.int64), "none": None}
    lengths, rows, words = tf.function(ready, autograph=False)(given)
    assert lengths.numpy().tolist() == [1, 3]
    assert rows.to_list() == [[2], [4, 6]]
    assert words.numpy().tolist() == [b"a", b"bcd"]


def test_calls_within_leave_others_as_they_are() -> None:
    """The next function called outside is optimized as ever."""

    def multiplied(afterwards: tf.Tensor) -> tf.Tensor:
        return tf.nn.relu(tf.nn.bias_add(afterwards[None] @ tf.ones([4, 4]), tf.ones([4])))[0]

    in_a_loop(tf.function(multiplied), tf.ones([4]))
    context.enable_run_metadata()
    tf.function(multiplied)(tf.ones([4]))
    graphs = [each.post_optimization_graph.node for each in context.export_run_metadata().function_graphs]
    context.disable_run_metadata()
    (kinds,) = [{node.op for node in nodes} for nodes in graphs if "afterwards" in {node.name for node in nodes}]
    assert "_FusedMatMul" in kinds


MODELS: dict[str, Callable[[], list[Any]]] = {
    "silu": lambda: [layers.Dense(8, "silu"), layers.Dense(8), layers.Activation("silu"), layers.Dense(3, "silu")],
    "tanh": lambda: [layers.Dense(8, "tanh"), layers.Dense(8, "sigmoid"), layers.Dense(8, "elu")],
    "hard_silu": lambda: [layers.Dense(8, "hard_silu"), layers.Dense(8, "hard_silu")],
    "convolutions": lambda: [
        layers.Reshape((3, 2, 1)),
        layers.Conv2D(4, 2, use_bias=False, padding="same"),
        layers.BatchNormalization(),
        layers.ReLU(),
        layers.Conv2D(4, 2, activation="silu", padding="same"),
        layers.MaxPooling2D(2, padding="same"),
        layers.Flatten(),
    ],
    "recurrent": lambda: [layers.Reshape((3, 2)), layers.LSTM(4, dropout=0.2), layers.Dropout(0.2)],
}


def trained(fit: Any, body: Callable[[], list[Any]], x: np.ndarray, each: int) -> list[Any]:
    keras.utils.set_random_seed(7)
    model = keras.Sequential([keras.Input((6,)), *body(), layers.Dense(2)])
    model.compile(keras.optimizers.SGD(0.1), "mse", steps_per_execution=each)
    history = fit(model, x, x[:, :2], batch_size=4, epochs=2, verbose=0, validation_data=(x[:6], x[:6, :2]))
    return [each.numpy().tobytes() for each in model.variables] + [np.asarray(v).tobytes() for v in history.history.values()]


@pytest.mark.parametrize("each", [1, 3])
@pytest.mark.parametrize("name", MODELS)
def test_bits_whatever_is_fused(name: str, each: int) -> None:
    """With a last batch that is smaller, and with evaluation. What is fused differs with oneDNN on and off."""
    assert trained(keras.Model.fit, MODELS[name], X, each) == trained(fitcore.fit, MODELS[name], X, each)


def test_losses_whose_terms_are_added_in_the_order_of_their_names() -> None:
    """TensorFlow keeps one of several equal constants, here 1e-7 of two losses, and which of them depends on the whole step."""
    names = ("BinaryCrossentropy", "BinaryFocalCrossentropy", "Dice", "Hinge", "SquaredHinge", "Tversky")
    targets = {name: (X[:, :1] > 0).astype("float32") for name in names}

    def bits(fit: Any) -> list[bytes]:
        keras.utils.set_random_seed(3)
        inputs = keras.Input((6,))
        outputs = {name: layers.Dense(1, "sigmoid", name=name)(layers.Dense(4, "relu")(inputs)) for name in names}
        model = keras.Model(inputs, outputs)
        model.compile(keras.optimizers.SGD(0.05), {name: getattr(keras.losses, name)() for name in names})
        fit(model, X, targets, batch_size=4, epochs=2, verbose=0)
        return [each.tobytes() for each in model.get_weights()]

    assert bits(keras.Model.fit) == bits(fitcore.fit)


def test_a_maximum_of_what_is_not_a_number() -> None:
    """oneDNN and TensorFlow choose other places for its gradient: which of them Keras has depends on the process."""
    x = X.copy()
    x[3, 2] = np.nan
    body = lambda: [layers.Reshape((3, 2, 1)), layers.Conv2D(2, 1), layers.MaxPooling2D(2, padding="same"), layers.Flatten()]  # noqa: E731
    assert trained(keras.Model.fit, body, x, 1) == trained(fitcore.fit, body, x, 1)


def test_the_loop_is_made_of_the_step_that_was_optimized() -> None:
    """Else TensorFlow would fuse the step anew, together with the loop around it."""
    model = keras.Sequential([keras.Input((6,)), layers.Dense(8, "relu"), layers.Dense(2)])
    model.compile("sgd", "mse")
    fitcore.fit(model, X, X[:, :2], verbose=0)
    library = fitcore.Engine.of_compiled(model).graphs()[0].as_graph_def().library.function
    kinds = Counter(node.op for function in library for node in function.node_def)
    assert kinds["_FusedMatMul"]


def test_several_steps_in_an_execution_are_optimized_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """As Keras does it."""
    alone: list[bool] = []
    made = Program.__init__

    def noting(self: Program, *arguments: Any, **named: Any) -> None:
        alone.append(named["alone"])
        made(self, *arguments, **named)

    monkeypatch.setattr(Program, "__init__", noting)
    model = keras.Sequential([keras.Input((6,)), layers.Dense(2)])
    for each in (1, 4, 1):
        model.compile("sgd", "mse", steps_per_execution=each)
        fitcore.fit(model, X, X[:, :2], verbose=0)
    assert alone == [True, False, True]
