"""Recurrent layers, whose loops over time fitcore makes leaner: Keras's bits, and no loop left where it is written out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from models import state

import fitcore

BATCH = 4


def trained(fit: Callable[..., Any], body: Callable[[], list[Any]], times: int) -> tuple[keras.Model, dict[str, Any]]:
    """A model of these layers after six steps, and its history."""
    keras.utils.set_random_seed(3)
    x = np.random.default_rng(0).normal(size=(3 * BATCH, times, 2)).astype("float32")
    model = keras.Sequential([keras.Input(batch_shape=(BATCH, times, 2)), *body(), layers.Dense(1)])
    model.compile("adam", "mse")
    history = fit(model, x, x[:, 0, :1] * x[:, -1, 1:], batch_size=BATCH, epochs=2, verbose=0)
    return model, history.history


def step_graph(model: keras.Model, times: int) -> tf.Graph:
    """The graph of one step."""
    x = np.zeros((2 * BATCH, times, 2), "float32")
    stream = fitcore.Stream(fitcore.make_source(x, x[:, 0, :1], batch_size=BATCH, shuffle=True))
    graph = fitcore.Engine.of_compiled(model).step_graph(stream, ("step/loss",), None)
    assert graph is not None
    return graph


def nodes(graph: tf.Graph) -> list[Any]:
    """All ops in it and in the functions that it calls."""
    definition = graph.as_graph_def()
    return [*definition.node, *(node for function in definition.library.function for node in function.node_def)]


WRITTEN_OUT = {
    "lstm_gru": lambda: [
        layers.LSTM(3, return_sequences=True, dropout=0.2, recurrent_dropout=0.1),
        layers.GRU(3, go_backwards=True, reset_after=False, kernel_regularizer="l2"),
    ],
    "both_ways": lambda: [
        layers.Bidirectional(layers.LSTM(2, return_sequences=True)),
        layers.SimpleRNN(3, activation="relu", use_bias=False),
    ],
    "stateful": lambda: [layers.GRU(3, stateful=True, return_sequences=True), layers.RNN(layers.LSTMCell(2))],
    "frozen": lambda: [layers.LSTM(3, trainable=False, return_sequences=True), layers.LSTM(3)],
}


@pytest.mark.parametrize("name", WRITTEN_OUT)
def test_few_times_are_written_out(name: str) -> None:
    body, times = WRITTEN_OUT[name], 12
    (kept, history), (ours, our_history) = (trained(fit, body, times) for fit in (keras.Model.fit, fitcore.fit))
    assert our_history == history
    assert [*state(ours).values()] == [*state(kept).values()]
    assert not [node.name for node in nodes(step_graph(ours, times)) if "While" in node.op]


@pytest.mark.parametrize(
    ("loop", "times"),
    [
        (lambda: layers.LSTM(3), 40),
        (lambda: layers.RNN([layers.LSTMCell(3), layers.GRUCell(2)]), 12),
    ],
    ids=["many_times", "cells_of_cells"],
)
def test_other_loops_read_their_weights_before(loop: Callable[[], Any], times: int) -> None:
    (kept, history), (ours, our_history) = (trained(fit, lambda: [loop()], times) for fit in (keras.Model.fit, fitcore.fit))
    assert our_history == history
    assert [*state(ours).values()] == [*state(kept).values()]
    functions = step_graph(ours, times).as_graph_def().library.function
    in_loops = [node for function in functions for node in function.node_def]
    assert len(in_loops) > 50
    assert not [node.name for node in in_loops if node.op == "ReadVariableOp"]


def test_a_layer_that_is_unrolled_by_its_user_stays_so() -> None:
    (kept, _), (ours, _) = (trained(fit, lambda: [layers.LSTM(3, unroll=True)], 12) for fit in (keras.Model.fit, fitcore.fit))
    assert [*state(ours).values()] == [*state(kept).values()]
