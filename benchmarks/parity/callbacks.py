"""Callbacks: what they see and what they change."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from benchmarks.parity.setup import Setup, case, dataset, mlp, regression


@case
def early_stopping() -> Setup:
    """EarlyStopping that stops early and goes back to the best epoch."""
    stop = keras.callbacks.EarlyStopping(patience=2, min_delta=100.0, restore_best_weights=True)
    return mlp(), regression() | {"epochs": 6, "validation_split": 0.2, "callbacks": [stop]}


@case
def reduce_lr_on_plateau() -> Setup:
    """ReduceLROnPlateau."""
    reduce = keras.callbacks.ReduceLROnPlateau("loss", factor=0.5, patience=1, min_delta=100.0)
    return mlp(), regression() | {"epochs": 4, "callbacks": [reduce]}


@case
def learning_rate_scheduler() -> Setup:
    """LearningRateScheduler."""
    schedule = keras.callbacks.LearningRateScheduler(lambda epoch, rate: rate * 0.7)
    return mlp(), regression() | {"epochs": 3, "callbacks": [schedule]}


class BatchLogs(keras.callbacks.Callback):
    """Puts the logs that callbacks see after each batch into the History, to be compared with the rest."""

    def on_train_begin(self, logs: Any = None) -> None:
        self.seen: list[tuple[int, dict[str, float]]] = []

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.seen.append((batch, dict(logs)))

    def on_train_end(self, logs: Any = None) -> None:
        history = self.model.history.history
        history["batch"] = [batch for batch, _ in self.seen]
        for name in self.seen[0][1]:
            history[f"batch_{name}"] = [values[name] for _, values in self.seen]


@case
def batch_callback() -> Setup:
    """A callback that reads the logs after each batch."""
    return mlp(metrics=["mae"]), regression() | {"epochs": 2, "callbacks": [BatchLogs()]}


class Noting(keras.callbacks.Callback):
    """Writes down each call of each method with its batch or epoch and its logs."""

    def on_train_end(self, logs: Any = None) -> None:
        self.model.history.history |= {"calls": [str(call) for call in self.seen]}


def _noting(method: str) -> Any:
    def note(self: Any, *batch_or_epoch: int, logs: Any = None) -> None:
        if method == "on_train_begin":
            self.seen = []
        self.seen.append((method, *batch_or_epoch, dict(logs or {})))

    return note


for _method in ("train_begin", "test_begin", "test_end", "epoch_begin", "epoch_end"):
    setattr(Noting, f"on_{_method}", _noting(f"on_{_method}"))
for _mode in ("train", "test"):
    for _end in ("begin", "end"):
        setattr(Noting, f"on_{_mode}_batch_{_end}", _noting(f"on_{_mode}_batch_{_end}"))


@case
def sequence_of_calls() -> Setup:
    """A callback with every method: which calls in which order, with which logs."""
    return mlp(), regression() | {"epochs": 2, "validation_split": 0.2, "callbacks": [Noting()]}


@case
def sequence_of_calls_on_unknown_size() -> Setup:
    """The same on a tf.data.Dataset of unknown size."""
    rows = dataset().filter(lambda x, y: x[0] > 0).batch(32)
    return mlp(), {"x": rows, "epochs": 2, "validation_data": rows, "callbacks": [Noting()]}


@case
def terminate_on_nan() -> Setup:
    """TerminateOnNaN, in the middle of an epoch."""
    data = regression()
    data["y"][150] = np.nan
    return mlp(), data | {"epochs": 3, "shuffle": False, "callbacks": [keras.callbacks.TerminateOnNaN()]}


@case
def swap_ema_weights() -> Setup:
    """SwapEMAWeights, the averages used for validation."""
    model = mlp(optimizer=keras.optimizers.Adam(0.01, use_ema=True, ema_momentum=0.9))
    swap = keras.callbacks.SwapEMAWeights(swap_on_epoch=True)
    return model, regression() | {"epochs": 2, "validation_split": 0.2, "callbacks": [swap]}


@case
def lambda_callback() -> Setup:
    """LambdaCallback: a function at each batch and epoch."""
    model, seen = mlp(), []
    callback = keras.callbacks.LambdaCallback(
        on_epoch_begin=lambda epoch, logs: seen.append(epoch),
        on_train_batch_end=lambda batch, logs: seen.append(logs["loss"]),
        on_train_end=lambda logs: model.history.history.update(seen=seen),
    )
    return model, regression() | {"epochs": 2, "callbacks": [callback]}


@case
def remote_monitor() -> Setup:
    """RemoteMonitor: what it sends."""
    from unittest import mock

    model = mlp()

    def run(by: Any) -> dict[str, Any]:
        sent: list[Any] = []
        requests = types.SimpleNamespace(
            post=lambda url, *what, **how: sent.append((url, str(what), str(how))),
            exceptions=types.SimpleNamespace(RequestException=OSError),
        )
        with mock.patch.object(sys.modules[keras.callbacks.RemoteMonitor.__module__], "requests", requests):
            monitor = keras.callbacks.RemoteMonitor("http://nowhere")
            history = by.fit(model, **regression(), epochs=2, callbacks=[monitor], verbose=0).history
        return history | {"sent": sent}

    return model, run


class AtBatch(keras.callbacks.Callback):
    """Calls `act(model)` after one batch of each epoch."""

    def __init__(self, batch: int, act: Callable[[keras.Model], Any]) -> None:
        super().__init__()
        self.batch, self.act = batch, act

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if batch == self.batch:
            self.act(self.model)


def acting(act: Callable[[keras.Model], Any], **arguments: Any) -> Setup:
    return mlp(metrics=["mae"]), regression() | {"epochs": 3, "callbacks": [AtBatch(2, act)]} | arguments


def scale_rate(model: keras.Model) -> None:
    model.optimizer.learning_rate = 0.5 * model.optimizer.learning_rate.numpy()


def scale_weights(model: keras.Model) -> None:
    model.set_weights([0.9 * value for value in model.get_weights()])


def clear_momenta(model: keras.Model) -> None:
    for variable in model.optimizer.variables:
        if "momentum" in variable.path:
            variable.assign(keras.ops.zeros_like(variable))


def freeze(model: keras.Model) -> None:
    model.layers[0].trainable = False


def note_evaluation(model: keras.Model) -> None:
    data = regression(50)
    values = model.evaluate(data["x"], data["y"], verbose=0)
    model.history.history.setdefault("evaluated", []).append(values)


def note_prediction(model: keras.Model) -> None:
    model.history.history.setdefault("predicted", []).append(model.predict(regression(9)["x"], verbose=0))


@case
def rate_changed_in_mid_epoch() -> Setup:
    """A callback that changes the learning rate in the middle of an epoch."""
    return acting(scale_rate)


@case
def weights_changed_in_mid_epoch() -> Setup:
    """A callback that changes the weights in the middle of an epoch."""
    return acting(scale_weights)


@case
def optimizer_state_changed_in_mid_epoch() -> Setup:
    """A callback that changes the optimizer's state in the middle of an epoch."""
    return acting(clear_momenta)


@case
def layer_frozen_in_mid_epoch() -> Setup:
    """A callback that sets `trainable` in the middle of an epoch."""
    return acting(freeze)


@case
def stopped_in_mid_epoch() -> Setup:
    """A callback that sets stop_training in the middle of an epoch."""
    return acting(lambda model: setattr(model, "stop_training", True), validation_split=0.2)


@case
def stopped_during_evaluation() -> Setup:
    """A callback that sets stop_evaluating."""

    class Stop(keras.callbacks.Callback):
        def on_test_batch_end(self, batch: int, logs: Any = None) -> None:
            self.model.stop_evaluating = batch == 1

    return mlp(), regression() | {"epochs": 2, "validation_split": 0.5, "callbacks": [Stop()]}


@case
def evaluated_in_mid_epoch() -> Setup:
    """A callback that calls model.evaluate in the middle of an epoch."""
    return acting(note_evaluation)


@case
def predicted_in_mid_epoch() -> Setup:
    """A callback that calls model.predict in the middle of an epoch."""
    return acting(note_prediction)


@case
def metrics_reset_in_mid_epoch() -> Setup:
    """A callback that resets the metrics in the middle of an epoch."""
    return acting(lambda model: model.reset_metrics())


@case
def callbacks_in_order() -> Setup:
    """Several callbacks at once: each sees what those before it put into the logs."""
    callbacks = [
        keras.callbacks.LearningRateScheduler(lambda epoch, rate: rate * 0.7),
        keras.callbacks.ReduceLROnPlateau("loss", factor=0.5, patience=1, min_delta=100.0),
        Noting(),
    ]
    return mlp(), regression() | {"epochs": 3, "callbacks": callbacks}


@case
def early_stopping_used_again() -> Setup:
    """EarlyStopping used for a second fit, start_from_epoch, baseline."""
    model = mlp()
    stop = keras.callbacks.EarlyStopping("loss", patience=1, min_delta=0.1, start_from_epoch=1, baseline=5.0)

    def run(by: Any) -> dict[str, Any]:
        given = regression() | {"epochs": 5, "verbose": 0, "callbacks": [stop]}
        first = by.fit(model, **given).history
        return first | {"again": by.fit(model, **given).history["loss"], "stopped": stop.stopped_epoch}

    return model, run
