"""numerics="fast" in several threads: each model gets what it gets alone, and Keras's own fit beside it stays Keras's."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

import fitcore

X = np.random.default_rng(0).normal(size=(22, 6)).astype("float32")
Y = X[:, :1]
SECONDS = 120  # for the others to come to the same place


class Meeting(layers.Layer):
    """Where it is first traced for training in a fit, it waits for the layers of the other threads."""

    def __init__(self) -> None:
        super().__init__()
        self.barrier: threading.Barrier | None = None

    def call(self, x: Any, training: bool = False) -> Any:
        if training and self.barrier is not None:
            barrier, self.barrier = self.barrier, None
            barrier.wait(SECONDS)
        return x


def dropping(optimizer: Any, *more: Callable[[], layers.Layer]) -> Callable[[], keras.Model]:
    def make() -> keras.Model:
        body = [Meeting(), layers.Dense(5, "relu"), layers.Dropout(0.4), *(each() for each in more), Meeting(), layers.Dense(1)]
        model = keras.Sequential([keras.Input((6,)), *body])
        model.compile(optimizer(), "mse")
        return model

    return make


MODELS = {
    "dropout": dropping(lambda: keras.optimizers.SGD(0.1)),
    "noise": dropping(
        lambda: keras.optimizers.Adam(0.01), lambda: layers.GaussianNoise(0.2), lambda: layers.GaussianDropout(0.1)
    ),
    "two dropouts": dropping(lambda: keras.optimizers.SGD(0.01, momentum=0.9), lambda: layers.Dropout(0.2)),
}


def built(names: list[str]) -> list[keras.Model]:
    models = []
    for i, name in enumerate(names):
        keras.utils.set_random_seed(i)
        models.append(MODELS[name]())
        models[-1].build((None, 6))
    return models


def train(model: keras.Model, by: dict[str, Any] | None) -> list[bytes]:
    arguments: dict[str, Any] = {"epochs": 2, "batch_size": 4, "verbose": 0, "shuffle": False}
    if by is None:
        model.fit(X, Y, **arguments)
    else:
        fitcore.fit(model, X, Y, **arguments, **by)
    return [variable.numpy().tobytes() for variable in (*model.variables, *model.optimizer.variables)]


XLA, GRAPH = {"numerics": "fast", "plan": "xla"}, {"numerics": "fast", "plan": "graph"}
EXACT: dict[str, Any] = {}


@pytest.mark.parametrize("hows", [[XLA, XLA, XLA], [XLA, GRAPH, EXACT], [XLA, None, XLA], [EXACT, EXACT, None]])
def test_threads_that_trace_at_the_same_time(hows: list[dict[str, Any] | None]) -> None:
    names = list(MODELS)
    alone = [train(model, how) for model, how in zip(built(names), hows)]
    together = built(names)
    for place in range(2):  # before the first dropout, and behind what is drawn
        barrier = threading.Barrier(len(names))
        for model in together:
            meetings = [layer for layer in model.layers if isinstance(layer, Meeting)]
            meetings[place].barrier = barrier
    with ThreadPoolExecutor(len(names)) as pool:
        found = list(pool.map(train, together, hows))
    assert not any(layer.barrier for model in together for layer in model.layers if isinstance(layer, Meeting))
    for name, one, other in zip(names, alone, found):
        assert one == other, name


def test_nothing_stays_replaced() -> None:
    dropout = keras.src.backend.random.dropout
    (model,) = built(["dropout"])
    train(model, XLA)
    assert keras.src.backend.random.dropout is dropout
