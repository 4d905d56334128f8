"""Models with methods of their own."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf
from keras import layers

from benchmarks.parity.setup import Setup, case, functional, regression


class OwnTrainStep(keras.Model):
    def train_step(self, data: Any) -> dict[str, Any]:
        x, y = data
        with tf.GradientTape() as tape:
            y_pred = self(x, training=True)
            loss = self.compute_loss(y=y, y_pred=y_pred) + 0.1 * keras.ops.mean(keras.ops.abs(y_pred))
        self.optimizer.apply(tape.gradient(loss, self.trainable_variables), self.trainable_variables)
        return {"own_loss": loss} | self.compute_metrics(x, y, y_pred)


@case
def own_train_step() -> Setup:
    """A model class with its own train_step."""
    return functional(OwnTrainStep), regression() | {"epochs": 2, "validation_split": 0.2}


class OwnComputeLoss(keras.Model):
    def compute_loss(self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None) -> tf.Tensor:
        return keras.ops.mean(keras.ops.abs(y - y_pred)) + 0.01 * keras.ops.mean(keras.ops.square(y_pred))


@case
def own_compute_loss() -> Setup:
    """A model class with its own compute_loss."""
    return functional(OwnComputeLoss), regression() | {"epochs": 2, "validation_split": 0.2}


class OwnTestStep(keras.Model):
    def test_step(self, data: Any) -> dict[str, Any]:
        x, y = data
        y_pred = self(x, training=False)
        self.compute_loss(y=y, y_pred=y_pred)
        return {"largest": keras.ops.max(keras.ops.abs(y - y_pred))} | self.compute_metrics(x, y, y_pred)


@case
def own_test_step() -> Setup:
    """A model class with its own test_step."""
    return functional(OwnTestStep), regression() | {"epochs": 2, "validation_split": 0.2}


class OwnComputeMetrics(keras.Model):
    def compute_metrics(self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        return super().compute_metrics(x, y, y_pred, sample_weight) | {"mean": keras.ops.mean(y_pred)}


@case
def own_compute_metrics() -> Setup:
    """A model class with its own compute_metrics."""
    return functional(OwnComputeMetrics), regression() | {"epochs": 2, "validation_split": 0.2}


class OwnMetricsResult(keras.Model):
    def get_metrics_result(self) -> Any:
        return {f"my_{name}": 2 * value for name, value in super().get_metrics_result().items()}


@case
def own_get_metrics_result() -> Setup:
    """A model class with its own get_metrics_result."""
    return functional(OwnMetricsResult), regression() | {"epochs": 2, "validation_split": 0.2}


class OwnMetrics(keras.Model):
    """Keeps metrics of its own and resets them less often."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.own = keras.metrics.Mean(name="own")
        self.resets = 0

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        return [*super().metrics, self.own]

    def reset_metrics(self) -> None:
        self.resets += 1
        if self.resets % 2:
            super().reset_metrics()

    def compute_loss(self, *arguments: Any, **keywords: Any) -> Any:
        loss = super().compute_loss(*arguments, **keywords)
        self.own.update_state(keras.ops.sqrt(loss))
        return loss


@case
def own_metrics_and_reset() -> Setup:
    """A model class with its own metrics and reset_metrics."""
    return functional(OwnMetrics), regression() | {"epochs": 3}


class OwnEvaluate(keras.Model):
    def evaluate(self, *arguments: Any, **keywords: Any) -> Any:
        logs = super().evaluate(*arguments, **keywords)
        return {f"own_{name}": value for name, value in logs.items()}


@case
def own_evaluate() -> Setup:
    """A model class with its own evaluate."""
    return functional(OwnEvaluate), regression() | {"epochs": 2, "validation_split": 0.2}


@case
def own_evaluate_on_generator() -> Setup:
    """A model class with its own evaluate, its validation data a Python generator that the first epoch uses up."""
    data = regression()
    batches = ((data["x"][4 * i : 4 * i + 4], data["y"][4 * i : 4 * i + 4]) for i in range(5))
    return functional(OwnEvaluate), data | {"epochs": 3, "validation_data": batches}


class OwnEvaluateOfSomethingElse(keras.Model):
    def evaluate(self, x: Any = None, y: Any = None, **keywords: Any) -> Any:
        return {"arguments": len(keywords), "cached": float(keywords["_use_cached_eval_dataset"])}


@case
def own_evaluate_that_looks_at_its_arguments() -> Setup:
    """A model class whose evaluate looks at the arguments that Keras's fit gives it."""
    return functional(OwnEvaluateOfSomethingElse), regression() | {"epochs": 2, "validation_split": 0.2}


class TwoPlayers(keras.Model):
    """A small GAN: two networks, two optimizers, a train_step of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.generator = keras.Sequential([keras.Input((2,)), layers.Dense(8, activation="relu"), layers.Dense(6)])
        self.critic = keras.Sequential([keras.Input((6,)), layers.Dense(8, activation="relu"), layers.Dense(1)])
        self.seed = keras.random.SeedGenerator(5)
        self.generator_optimizer = keras.optimizers.Adam(0.01)
        self.loss_of = keras.losses.BinaryCrossentropy(from_logits=True)

    def call(self, x: Any) -> Any:
        return self.critic(x)

    def train_step(self, data: Any) -> dict[str, Any]:
        (real,) = data if isinstance(data, tuple) else (data,)
        noise = keras.random.normal((keras.ops.shape(real)[0], 2), seed=self.seed)
        with tf.GradientTape(persistent=True) as tape:
            fakes = self.critic(self.generator(noise))
            reals = self.critic(real)
            fooled = self.loss_of(keras.ops.ones_like(fakes), fakes)
            told = self.loss_of(keras.ops.zeros_like(fakes), fakes) + self.loss_of(keras.ops.ones_like(reals), reals)
        for network, loss, optimizer in (
            (self.critic, told, self.optimizer),
            (self.generator, fooled, self.generator_optimizer),
        ):
            variables = network.trainable_variables
            optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables))
        return {"fooled": fooled, "told": told}


@case
def own_train_step_of_two_networks() -> Setup:
    """A GAN: a train_step of its own with two networks and two optimizers."""
    model = TwoPlayers()
    model.compile("adam")
    return model, {"x": regression()["x"], "epochs": 2}


class OfItself(keras.Model):
    """Its loss needs no y."""

    def compute_loss(self, x: Any, y: Any, y_pred: Any, sample_weight: Any, training: bool = True) -> Any:
        return keras.ops.mean(keras.ops.square(x[:, :1] - y_pred))


@case
def no_targets() -> Setup:
    """x alone, without y."""
    inputs = keras.Input((6,))
    model = OfItself(inputs, layers.Dense(1)(layers.Dropout(0.3)(inputs)))
    model.compile("adam")
    return model, {"x": regression()["x"], "epochs": 2}
