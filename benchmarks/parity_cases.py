"""Cases of the parity command: kinds of data, of optimizer, of compile's and fit's arguments. `CASES` holds all cases."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from benchmarks.parity_models import CASES, PARTIAL, Case, Setup, case, classification, classifier, dataset, mlp, regression

__all__ = ["CASES"]

# --- data and its arguments -----------------------------------------------------------------------------------------------


@case
def batch_larger_than_data() -> Setup:
    return mlp(), regression(50) | {"epochs": 3, "batch_size": 64}


@case
def validation_split() -> Setup:
    return mlp(metrics=["mae"]), regression() | {"epochs": 2, "validation_split": 0.25}


@case
def validation_every_other_epoch() -> Setup:
    held_out = regression(70)
    validation = {"validation_data": (held_out["x"], held_out["y"]), "validation_freq": 2, "validation_batch_size": 16}
    return mlp(metrics=["mae"]), regression() | {"epochs": 4} | validation


@case
def validation_on_dataset() -> Setup:
    return mlp(), regression() | {"epochs": 2, "validation_data": dataset(70).batch(16), "validation_steps": 3}


@case
def dataset_of_known_size() -> Setup:
    return mlp(), {"x": dataset().batch(32), "epochs": 2}


@case
def dataset_reshuffled_each_epoch() -> Setup:
    return mlp(), {"x": dataset().shuffle(PARTIAL, seed=3).batch(32, drop_remainder=True), "epochs": 3}


@case
def dataset_of_unknown_size() -> Setup:
    return mlp(), {"x": dataset().filter(lambda x, y: x[0] > 0).batch(32), "epochs": 3}


@case
def dataset_from_generator() -> Setup:
    data = regression()
    specs = (tf.TensorSpec((6,), tf.float32), tf.TensorSpec((1,), tf.float32))
    rows = tf.data.Dataset.from_generator(lambda: zip(data["x"], data["y"]), output_signature=specs)
    return mlp(), {"x": rows.batch(32), "epochs": 2}


@case
def dataset_repeated() -> Setup:
    return mlp(), {"x": dataset().shuffle(PARTIAL, seed=3).repeat().batch(32), "epochs": 3, "steps_per_epoch": 5}


@case
def dataset_shorter_than_steps_per_epoch() -> Setup:
    return mlp(), {"x": dataset().batch(32), "epochs": 3, "steps_per_epoch": 9}


@case
def steps_per_epoch_below_a_pass() -> Setup:
    return mlp(), regression() | {"epochs": 4, "batch_size": 32, "steps_per_epoch": 3}


@case
def sample_weight() -> Setup:
    weights = np.random.default_rng(1).uniform(size=PARTIAL).astype("float32")
    return mlp(metrics=["mae"]), regression() | {"epochs": 2, "sample_weight": weights}


@case
def weighted_metrics() -> Setup:
    weights = np.random.default_rng(1).uniform(size=PARTIAL)
    arguments = {"epochs": 2, "sample_weight": weights, "validation_split": 0.2}
    return mlp(metrics=["mse"], weighted_metrics=["mae"]), regression() | arguments


@case
def class_weight() -> Setup:
    return classifier(metrics=["accuracy"]), classification() | {"epochs": 2, "class_weight": {0: 1.0, 1: 2.5, 2: 0.3}}


@case
def shuffle_off() -> Setup:
    return mlp(), regression() | {"epochs": 2, "shuffle": False}


@case
def shuffle_inside_batches() -> Setup:
    return mlp(), regression() | {"epochs": 2, "shuffle": "batch"}


class Batches(keras.utils.PyDataset):
    """The regression data, batch by batch; Keras shuffles the batches."""

    def __len__(self) -> int:
        return -(-PARTIAL // 32)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        data, rows = regression(), slice(32 * index, 32 * (index + 1))
        return data["x"][rows], data["y"][rows]


@case
def py_dataset() -> Setup:
    return mlp(), {"x": Batches(), "epochs": 3, "shuffle": True}


@case
def python_generator() -> Setup:
    def batches() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        data, random = regression(), np.random.default_rng(1)
        while True:
            rows = random.integers(0, PARTIAL, 16)
            yield data["x"][rows], data["y"][rows]

    return mlp(), {"x": batches(), "epochs": 2, "steps_per_epoch": 5}


# --- optimizers and precision ---------------------------------------------------------------------------------------------


def optimizer_case(name: str, make: Callable[[], keras.optimizers.Optimizer]) -> None:
    """Register the MLP trained by the optimizer that `make` returns."""
    CASES[name] = Case(name, lambda: (mlp(optimizer=make()), regression() | {"epochs": 2}))


def decaying() -> keras.optimizers.schedules.LearningRateSchedule:
    return keras.optimizers.schedules.CosineDecay(0.05, decay_steps=10, warmup_steps=3, warmup_target=0.1)


optimizer_case("sgd_nesterov", lambda: keras.optimizers.SGD(0.05, momentum=0.9, nesterov=True))
optimizer_case("adam_amsgrad", lambda: keras.optimizers.Adam(0.01, amsgrad=True))
optimizer_case("adamw", lambda: keras.optimizers.AdamW(0.01, weight_decay=0.1))
optimizer_case("rmsprop_centered", lambda: keras.optimizers.RMSprop(0.01, momentum=0.5, centered=True))
optimizer_case("adagrad", lambda: keras.optimizers.Adagrad(0.05))
optimizer_case("adadelta", lambda: keras.optimizers.Adadelta(1.0))
optimizer_case("nadam", lambda: keras.optimizers.Nadam(0.01))
optimizer_case("lion", lambda: keras.optimizers.Lion(0.01))
optimizer_case("ftrl", lambda: keras.optimizers.Ftrl(0.05, l1_regularization_strength=0.01))
optimizer_case("cosine_decay", lambda: keras.optimizers.SGD(decaying()))
optimizer_case("clipnorm", lambda: keras.optimizers.Adam(0.01, clipnorm=0.1))
optimizer_case("global_clipnorm", lambda: keras.optimizers.SGD(0.05, global_clipnorm=0.1))
optimizer_case("moving_average", lambda: keras.optimizers.Adam(0.01, use_ema=True, ema_momentum=0.9))
optimizer_case("gradient_accumulation", lambda: keras.optimizers.Adam(0.01, gradient_accumulation_steps=3))


@case
def mixed_float16() -> Setup:
    """Starts at a loss scale that overflows, so that skipped updates and both changes of the scale occur."""
    keras.config.set_dtype_policy("mixed_float16")
    optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(0.01), initial_scale=2.0**18, dynamic_growth_steps=4)
    return mlp(optimizer=optimizer), regression() | {"epochs": 3}


@case
def float64() -> Setup:
    keras.config.set_floatx("float64")
    return mlp(), regression() | {"epochs": 2}


# --- the loop: compile's options, epochs, callbacks, metrics --------------------------------------------------------------


@case
def run_eagerly() -> Setup:
    return mlp(run_eagerly=True, metrics=["mae"]), regression() | {"epochs": 2}


@case
def steps_per_execution() -> Setup:
    return mlp(steps_per_execution=3), regression() | {"epochs": 2, "validation_split": 0.2, "callbacks": [BatchLogs()]}


@case
def jit_compile() -> Setup:
    return mlp(jit_compile=True), regression() | {"epochs": 2}


@case
def initial_epoch() -> Setup:
    return mlp(), regression() | {"epochs": 5, "initial_epoch": 3}


@case
def several_metrics() -> Setup:
    metrics = [
        keras.metrics.AUC(num_thresholds=20),
        keras.metrics.Precision(),
        "accuracy",
        keras.metrics.F1Score(threshold=0.5),
    ]
    data = classification(classes=2)
    labels = data["y"].astype("float32")[:, None]
    model = mlp(1, "sigmoid", loss="binary_crossentropy", metrics=metrics)
    return model, data | {"y": labels, "epochs": 2, "validation_split": 0.2}


@case
def early_stopping() -> Setup:
    """Nothing counts as better than the first epoch, so training stops early and goes back to it."""
    stop = keras.callbacks.EarlyStopping(patience=2, min_delta=100.0, restore_best_weights=True)
    return mlp(), regression() | {"epochs": 6, "validation_split": 0.2, "callbacks": [stop]}


@case
def reduce_lr_on_plateau() -> Setup:
    reduce = keras.callbacks.ReduceLROnPlateau("loss", factor=0.5, patience=1, min_delta=100.0)
    return mlp(), regression() | {"epochs": 4, "callbacks": [reduce]}


@case
def learning_rate_scheduler() -> Setup:
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
    return mlp(metrics=["mae"]), regression() | {"epochs": 2, "callbacks": [BatchLogs()]}
