"""Callbacks that do what users' do, and what is done between two fits."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np


class SeesBatches(keras.callbacks.Callback):
    """Keeps the logs of each batch."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[float] = []

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.seen.extend([batch, *(float(np.mean(value)) for _, value in sorted((logs or {}).items()))])


class SeesEpochs(keras.callbacks.Callback):
    """Keeps the logs of each epoch, validation's too."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[float] = []

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.seen.extend([epoch, *(float(np.mean(value)) for _, value in sorted((logs or {}).items()))])


class StopsIn(keras.callbacks.Callback):
    """Sets `stop_training` in the `count`-th call of a method."""

    def __init__(self, method: str, count: int) -> None:
        super().__init__()
        self.left, self.method = count, method

    def _count(self, method: str) -> None:
        self.left -= method == self.method
        if method == self.method and self.left == 0:
            self.model.stop_training = True

    def on_train_begin(self, logs: Any = None) -> None:
        self._count("on_train_begin")

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._count("on_epoch_begin")

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        self._count("on_train_batch_begin")

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self._count("on_train_batch_end")

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self._count("on_epoch_end")


class ChangesRate(keras.callbacks.Callback):
    """Sets the learning rate at each batch's begin, as a warm-up does."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        self.count += 1
        self.model.optimizer.learning_rate = 0.01 * min(self.count, 5)


class DecaysWeights(keras.callbacks.Callback):
    """Changes weights between epochs."""

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.model.set_weights([0.9 * value if value.dtype.kind == "f" else value for value in self.model.get_weights()])


class KeepsBest(keras.callbacks.Callback):
    """Keeps the best weights in memory, and puts them back at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.best = float("inf")
        self.weights: list[Any] = []

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        loss = float(np.mean((logs or {}).get("loss", 0.0)))
        if loss < self.best:
            self.best, self.weights = loss, self.model.get_weights()

    def on_train_end(self, logs: Any = None) -> None:
        if self.weights:
            self.model.set_weights(self.weights)


class CompilesInEpoch(keras.callbacks.Callback):
    """Thaws all and compiles again while training."""

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        if epoch == 1:
            self.model.trainable = True
            self.model.compile(keras.optimizers.SGD(0.01), self.model.loss)
            self.model.make_train_function()  # without it Keras raises


class PredictsAtEpochs(keras.callbacks.Callback):
    """Evaluates on the side while training: the weights' sum, and a prediction."""

    def __init__(self, x: Any) -> None:
        super().__init__()
        self.x, self.seen = x, [0.0]

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.seen.extend(float(np.sum(each)) for each in keras.tree.flatten(self.model.predict_on_batch(self.x)))

    def state(self) -> Any:
        return self.seen

    def load_state(self, state: Any) -> None:
        self.seen = list(state)


# --- between two fits -----------------------------------------------------------------------------------------------------


def freeze_first(model: Any) -> None:
    next(layer for layer in model.layers if layer.weights).trainable = False


def thaw_and_compile(model: Any) -> None:
    model.trainable = True
    model.compile(keras.optimizers.Adam(0.01), model.loss)


def compile_as_before(model: Any) -> None:
    model.compile(keras.optimizers.SGD(0.02, momentum=0.9), model.loss, metrics=["mae"])


def make_again(model: Any) -> None:
    model.trainable = not model.layers[-1].trainable
    model.trainable = True
    model.make_train_function(force=True)


def other_optimizer(model: Any) -> None:
    model.optimizer = keras.optimizers.SGD(0.03)


def lower_rate(model: Any) -> None:
    model.optimizer.learning_rate = 1e-3


def halve_weights(model: Any) -> None:
    model.set_weights([0.5 * value if value.dtype.kind == "f" else value for value in model.get_weights()])


def nothing(model: Any) -> None:
    pass
