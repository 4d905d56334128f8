"""numerics="fast", smaller last batch: losses and metrics of every kind are those of exact, in either form."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers, metrics

import fitcore

N = 22
RNG = np.random.default_rng(0)
X = RNG.normal(size=(N, 5)).astype("float32")
P, Q = RNG.normal(size=(N, 1)).astype("float32"), RNG.normal(size=(N, 2)).astype("float32")
LABELS, WEIGHTS = RNG.integers(0, 3, N), RNG.uniform(0.2, 3, N).astype("float32")


class Seen(metrics.Metric):
    """Has a state of its own, and asks for the size of a batch as a number."""

    def __init__(self, name: str = "seen") -> None:
        super().__init__(name=name)
        self.total = self.add_variable((), "zeros", name="total")
        self.known = self.add_variable((), "zeros", name="known")

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        self.total.assign(self.total + keras.ops.sum(y_pred))
        self.known.assign(self.known + (1.0 if y_pred.shape[0] is None else y_pred.shape[0]))

    def result(self) -> Any:
        return {"total": self.total + 0, "known": self.known + 0}


def asking(y_true: Any, y_pred: Any) -> Any:
    """A loss of the user's own that asks likewise."""
    scale = 1.0 if y_pred.shape[0] is None else float(y_pred.shape[0])
    return scale * keras.ops.mean(keras.ops.square(y_true - y_pred), axis=-1)


class OwnStep(keras.Model):
    def train_step(self, data: Any) -> Any:
        import tensorflow as tf

        x, y = data
        with tf.GradientTape() as tape:
            y_pred = self(x, training=True)
            loss = self.compute_loss(x, y, y_pred)
        self.optimizer.apply(tape.gradient(loss, self.trainable_variables), self.trainable_variables)
        return self.compute_metrics(x, y, y_pred)


class OwnLoss(keras.Model):
    def compute_loss(
        self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, training: bool = True
    ) -> Any:
        return super().compute_loss(x, y, y_pred, sample_weight, training) + asking(y["p"], y_pred["p"])[0]


def two(kind: type = keras.Model, as_list: bool = False, **compiled: Any) -> keras.Model:
    a = keras.Input((5,))
    p, q = layers.Dense(1, name="p")(a), layers.Dense(2, name="q")(a)
    model = kind(a, [p, q] if as_list else {"p": p, "q": q})
    model.compile(**{"optimizer": "sgd", "loss": ["mse", "mae"] if as_list else {"p": "mse", "q": "mae"}} | compiled)
    return model


def one(units: int, activation: str | None, loss: Any, **compiled: Any) -> keras.Model:
    model = keras.Sequential([keras.Input((5,)), layers.Dense(units, activation)])
    model.compile("sgd", loss, **compiled)
    return model


def masked() -> keras.Model:
    a = keras.Input((5, 1))
    seen = layers.Masking(0.0)(a)
    model = keras.Model(a, {"p": layers.Dense(1, name="p")(seen), "q": layers.LSTM(2, name="q")(seen)})
    model.compile("sgd", {"p": "mse", "q": "mae"}, weighted_metrics={"p": ["mae"], "q": ["mse"]})
    return model


GAPS = np.where(RNG.random((N, 5, 1)) < 0.3, 0, X[..., None])
ONE_HOT = np.eye(3, dtype="float32")[LABELS]
OF_P = ["mae", metrics.RootMeanSquaredError, metrics.R2Score, metrics.LogCoshError, metrics.MeanAbsolutePercentageError, Seen]
OF_LABELS = [
    metrics.SparseCategoricalAccuracy,
    lambda: metrics.SparseTopKCategoricalAccuracy(2),
    lambda: metrics.MeanIoU(3, sparse_y_pred=False),
]
OF_CLASSES = [
    metrics.AUC,
    metrics.Precision,
    metrics.Recall,
    metrics.F1Score,
    lambda: metrics.FBetaScore(beta=2.0),
    lambda: metrics.TopKCategoricalAccuracy(2),
    lambda: metrics.OneHotMeanIoU(3),
    lambda: metrics.PrecisionAtRecall(0.5),
    metrics.CategoricalAccuracy,
    metrics.CosineSimilarity,
    metrics.KLDivergence,
    metrics.CategoricalCrossentropy,
    Seen,
]


def made(kinds: list[Any]) -> list[Any]:
    return [kind if isinstance(kind, str) else kind() for kind in kinds]


PAIR = {"p": P, "q": Q}
CASES: dict[str, tuple[Callable[[], keras.Model], Any, Any, dict[str, Any]]] = {
    "dicts": (lambda: two(metrics={"p": made(OF_P), "q": [Seen()]}), X, PAIR, {}),
    "lists": (lambda: two(as_list=True, metrics=[made(OF_P), ["mse"]], loss_weights=[0.3, 2.0]), X, [P, Q], {}),
    "weights": (
        lambda: two(weighted_metrics={"p": ["mse"], "q": ["mae"]}),
        X,
        PAIR,
        {"sample_weight": {"p": WEIGHTS, "q": WEIGHTS[::-1].copy()}},
    ),
    "own step": (lambda: two(OwnStep, metrics={"p": ["mae"], "q": []}), X, PAIR, {}),
    "own loss": (lambda: two(OwnLoss), X, PAIR, {}),
    "a loss that asks": (lambda: two(loss={"p": asking, "q": "mae"}), X, PAIR, {}),
    "masks": (masked, GAPS, {"p": GAPS * 2, "q": Q}, {}),
    "labels": (
        lambda: one(3, "softmax", "sparse_categorical_crossentropy", weighted_metrics=made(OF_LABELS)),
        X,
        LABELS,
        {"class_weight": {0: 0.5, 1: 2.0, 2: 1.0}},
    ),
    "classes": (
        lambda: one(3, "softmax", "categorical_crossentropy", metrics=made(OF_CLASSES)),
        X,
        ONE_HOT,
        {"sample_weight": WEIGHTS},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_history_and_metrics_are_those_of_exact(name: str) -> None:
    make, x, y, more = CASES[name]
    found = {}
    for plan in (None, "graph", "xla"):
        keras.utils.clear_session()
        keras.utils.set_random_seed(0)
        model = make()
        how: dict[str, Any] = {} if plan is None else {"numerics": "fast", "plan": plan}
        history = fitcore.fit(model, x, y, batch_size=4, epochs=3, verbose=0, **more, **how).history
        found[plan] = history, [variable.numpy() for variable in (*model.variables, *model.metrics_variables)]
    history, values = found[None]
    for plan in ("graph", "xla"):
        assert list(found[plan][0]) == list(history)
        for key in history:
            np.testing.assert_allclose(found[plan][0][key], history[key], rtol=1e-4, atol=1e-5, err_msg=f"{plan} {key}")
        for a, b in zip(found[plan][1], values):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5, err_msg=plan)


def test_explicit_parts_see_no_size_either() -> None:
    found = []
    for plan in (None, "xla"):
        keras.utils.set_random_seed(0)
        model = keras.Sequential([keras.Input((5,)), layers.Dense(1)])
        engine = fitcore.Engine(
            model,
            optimizer=keras.optimizers.SGD(0.01),
            loss=lambda y, y_pred, _: keras.ops.mean(asking(y, y_pred)),
            metrics=[Seen()],
        )
        how: dict[str, Any] = {} if plan is None else {"numerics": "fast", "plan": plan}
        found.append(fitcore.fit(engine, X, P, batch_size=4, epochs=2, verbose=0, **how).history)
    for key in found[0]:
        np.testing.assert_allclose(found[0][key], found[1][key], rtol=1e-4)
