"""Sample weights, class weights, losses and metrics."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from benchmarks.parity.setup import (
    PARTIAL,
    Setup,
    case,
    classification,
    classifier,
    mlp,
    regression,
    sequences,
    stack,
    two_heads,
)


@case
def sample_weight() -> Setup:
    """sample_weight, an array."""
    weights = np.random.default_rng(1).uniform(size=PARTIAL).astype("float32")
    return mlp(metrics=["mae"]), regression() | {"epochs": 2, "sample_weight": weights}


@case
def weighted_metrics() -> Setup:
    """weighted_metrics, sample_weight and validation_split."""
    weights = np.random.default_rng(1).uniform(size=PARTIAL)
    arguments = {"epochs": 2, "sample_weight": weights, "validation_split": 0.2}
    return mlp(metrics=["mse"], weighted_metrics=["mae"]), regression() | arguments


@case
def class_weight() -> Setup:
    """class_weight on arrays."""
    return classifier(metrics=["accuracy"]), classification() | {"epochs": 2, "class_weight": {0: 1.0, 1: 2.5, 2: 0.3}}


@case
def several_metrics() -> Setup:
    """AUC, Precision, accuracy and F1Score."""
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
def class_weight_on_dataset() -> Setup:
    """class_weight on a tf.data.Dataset."""
    data = classification()
    rows = tf.data.Dataset.from_tensor_slices((data["x"], data["y"])).batch(32)
    return classifier(), {"x": rows, "epochs": 2, "class_weight": {0: 1.0, 1: 2.5, 2: 0.3}}


@case
def class_weight_on_one_hot() -> Setup:
    """class_weight on one-hot targets, with a class left out."""
    data = classification()
    model = mlp(3, "softmax", loss="categorical_crossentropy")
    return model, data | {"y": np.eye(3, dtype="float32")[data["y"]], "epochs": 2, "class_weight": {0: 2.0, 2: 0.3}}


@case
def sample_weight_by_output() -> Setup:
    """A sample weight for each output, with metrics and weighted_metrics as dicts."""
    weights = np.random.default_rng(1).uniform(size=(2, PARTIAL)).astype("float32")
    metrics = {"metrics": {"value": ["mae"]}, "weighted_metrics": {"value": ["mse"], "kind": ["accuracy"]}}
    model, data = two_heads(**metrics)
    return model, data | {"epochs": 2, "sample_weight": {"value": weights[0], "kind": weights[1]}}


@case
def sample_weight_over_outputs() -> Setup:
    """One sample weight array for all outputs."""
    model, data = two_heads(weighted_metrics={"value": ["mse"], "kind": ["accuracy"]})
    return model, data | {"epochs": 2, "sample_weight": np.linspace(0, 1, PARTIAL)}


@case
def temporal_sample_weight() -> Setup:
    """2-D sample weights: one for each time step."""
    x = sequences(PARTIAL)["x"]
    weights = np.random.default_rng(1).uniform(size=x.shape[:2]).astype("float32")
    model = stack(layers.LSTM(6, return_sequences=True), layers.Dense(1), shape=(5, 3), weighted_metrics=["mae"])
    return model, {"x": x, "y": x[:, :, :1], "sample_weight": weights, "epochs": 2}


@case
def sample_weight_in_dataset() -> Setup:
    """A tf.data.Dataset of (x, y, sample_weight), for validation too."""
    data = regression()
    rows = tf.data.Dataset.from_tensor_slices((data["x"], data["y"], np.linspace(0, 2, PARTIAL).astype("float32"))).batch(32)
    return mlp(weighted_metrics=["mae"]), {"x": rows, "epochs": 2, "validation_data": rows.take(3)}


@case
def validation_sample_weight() -> Setup:
    """validation_data with sample weights."""
    held_out = regression(70)
    validation = (held_out["x"], held_out["y"], np.linspace(0, 2, 70))
    return mlp(weighted_metrics=["mae"]), regression() | {"epochs": 2, "validation_data": validation}


@case
def masked_sequences() -> Setup:
    """A mask, which becomes part of the sample weights and of a metric's."""
    data = sequences(PARTIAL)
    data["x"][::3, 3:] = 0.0
    body = (layers.Masking(), layers.LSTM(6, return_sequences=True), layers.Dense(1))
    return stack(*body, shape=(5, 3), weighted_metrics=["mae"]), {"x": data["x"], "y": data["x"][:, :, :1], "epochs": 2}


@case
def list_losses_weights_and_metrics() -> Setup:
    """Lists of outputs, losses, loss_weights and metrics."""
    inputs = keras.Input((6,))
    hidden = layers.Dropout(0.2)(layers.Dense(8, activation="relu")(inputs))
    model = keras.Model(inputs, [layers.Dense(1)(hidden), layers.Dense(3, activation="softmax")(hidden)])
    losses = ["mse", "sparse_categorical_crossentropy"]
    model.compile("adam", losses, loss_weights=[0.7, 0.3], metrics=[["mae"], ["accuracy"]], weighted_metrics=[["mse"], []])
    data = regression()
    return model, {"x": data["x"], "y": [data["y"], classification()["y"]], "epochs": 2, "validation_split": 0.2}


@case
def output_without_loss() -> Setup:
    """An output that has no loss."""
    inputs = keras.Input((6,))
    hidden = layers.Dense(8, activation="relu")(inputs)
    model = keras.Model(inputs, {"value": layers.Dense(1)(hidden), "other": layers.Dense(2)(hidden)})
    model.compile("adam", loss={"value": "mse", "other": None})
    data = regression()
    return model, {"x": data["x"], "y": {"value": data["y"], "other": data["x"][:, :2]}, "epochs": 2}


@case
def loss_function_of_ones_own() -> Setup:
    """A loss and a metric that are plain functions."""

    def absolute(y: Any, y_pred: Any) -> Any:
        return keras.ops.abs(y - y_pred)

    return mlp(loss=absolute, metrics=[absolute]), regression() | {"epochs": 2, "validation_split": 0.2}


@case
def loss_summed() -> Setup:
    """A loss object with another reduction."""
    return mlp(loss=keras.losses.Huber(0.5, reduction="sum")), regression() | {"epochs": 2}


class Largest(keras.metrics.Metric):
    """The largest error so far."""

    def __init__(self) -> None:
        super().__init__(name="largest")
        self.value = self.add_variable((), "zeros", name="value")

    def update_state(self, y: Any, y_pred: Any, sample_weight: Any = None) -> None:
        self.value.assign(keras.ops.maximum(self.value, keras.ops.max(keras.ops.abs(y - y_pred))))

    def result(self) -> Any:
        return self.value


@case
def metric_of_ones_own() -> Setup:
    """A metric class of one's own."""
    return mlp(metrics=[Largest()]), regression() | {"epochs": 2, "validation_split": 0.2}
