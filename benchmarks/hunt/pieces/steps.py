"""Train steps in the forms of keras.io's guides."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf


class Tape(keras.Model):
    """A tape of one's own."""

    def train_step(self, data: Any) -> Any:
        x, y, weight = keras.utils.unpack_x_y_sample_weight(data)
        with tf.GradientTape() as tape:
            p = self(x, training=True)
            loss = self.compute_loss(x=x, y=y, y_pred=p, sample_weight=weight)
        self.optimizer.apply(tape.gradient(loss, self.trainable_weights), self.trainable_weights)
        for metric in self.metrics:
            if metric.name == "loss":
                metric.update_state(loss)
            else:
                metric.update_state(y, p, sample_weight=weight)
        return {metric.name: metric.result() for metric in self.metrics}


class OwnMetrics(keras.Model):
    """Metrics of one's own, in place of those of `compile`."""

    def __init__(self, *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self.mean_loss, self.size = (
            keras.metrics.Mean(name="own_loss"),
            keras.metrics.MeanMetricWrapper(self.sizes, name="size"),
        )

    @staticmethod
    def sizes(y: Any, p: Any) -> Any:
        return keras.ops.mean(keras.ops.abs(p), axis=-1)

    @property
    def metrics(self) -> Any:
        return [self.mean_loss, self.size]

    def train_step(self, data: Any) -> Any:
        x, y, weight = keras.utils.unpack_x_y_sample_weight(data)
        with tf.GradientTape() as tape:
            p = self(x, training=True)
            loss = self.compute_loss(y=y, y_pred=p, sample_weight=weight)
        self.optimizer.apply_gradients(zip(tape.gradient(loss, self.trainable_variables), self.trainable_variables))
        self.mean_loss.update_state(loss)
        self.size.update_state(keras.tree.flatten(y)[0], keras.tree.flatten(p)[0])
        return {metric.name: metric.result() for metric in self.metrics}

    def test_step(self, data: Any) -> Any:
        x, y, weight = keras.utils.unpack_x_y_sample_weight(data)
        p = self(x, training=False)
        self.mean_loss.update_state(self.compute_loss(y=y, y_pred=p, sample_weight=weight))
        self.size.update_state(keras.tree.flatten(y)[0], keras.tree.flatten(p)[0])
        return {metric.name: metric.result() for metric in self.metrics}


class ComputesLoss(keras.Model):
    """compute_loss overridden."""

    def compute_loss(
        self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, training: bool = True
    ) -> Any:
        loss = super().compute_loss(x=x, y=y, y_pred=y_pred, sample_weight=sample_weight, training=training)
        return loss + 0.01 * sum(keras.ops.mean(keras.ops.square(each)) for each in keras.tree.flatten(y_pred))


class TwoOptimizers(keras.Model):
    """Two optimizers, each for every other weight, as a GAN's; one step with the one, one with the other."""

    def compile(self, *arguments: Any, **more: Any) -> None:
        super().compile(*arguments, **more)
        self.first, self.second = keras.optimizers.Adam(0.02), keras.optimizers.SGD(0.02, momentum=0.9)

    def train_step(self, data: Any) -> Any:
        x, y, weight = keras.utils.unpack_x_y_sample_weight(data)
        for start, optimizer in enumerate((self.first, self.second)):
            weights = self.trainable_variables[start::2]
            with tf.GradientTape() as tape:
                loss = self.compute_loss(x=x, y=y, y_pred=self(x, training=True), sample_weight=weight)
            if weights:
                optimizer.apply_gradients(zip(tape.gradient(loss, weights), weights))
        return {"loss": loss}


class MovingCopy(keras.Model):
    """A slow copy of the weights, as a momentum encoder, in plain variables; the loss pulls towards it."""

    def train_step(self, data: Any) -> Any:
        x, y, weight = keras.utils.unpack_x_y_sample_weight(data)
        if not hasattr(self, "copies"):
            with tf.init_scope():
                self.copies = [tf.Variable(each.value) for each in self.trainable_variables]
        with tf.GradientTape() as tape:
            loss = self.compute_loss(x=x, y=y, y_pred=self(x, training=True), sample_weight=weight)
            for own, copy in zip(self.trainable_variables, self.copies):
                loss += tf.cast(0.01 * tf.reduce_mean((own - copy) ** 2), loss.dtype)
        self.optimizer.apply_gradients(zip(tape.gradient(loss, self.trainable_variables), self.trainable_variables))
        for own, copy in zip(self.trainable_variables, self.copies):
            copy.assign(0.9 * copy + 0.1 * own)
        return {"loss": loss}


class Adversarial(keras.Model):
    """Trains on inputs moved along the gradient's sign (floats only)."""

    def train_step(self, data: Any) -> Any:
        x, y, weight = keras.utils.unpack_x_y_sample_weight(data)
        x = keras.tree.map_structure(lambda each: tf.cast(each, tf.float32), x)
        with tf.GradientTape() as tape:
            keras.tree.map_structure(tape.watch, x)
            loss = self.compute_loss(x=x, y=y, y_pred=self(x, training=True), sample_weight=weight)
        moved = keras.tree.map_structure(lambda each, slope: each + 0.01 * tf.sign(slope), x, tape.gradient(loss, x))
        with tf.GradientTape() as tape:
            loss = self.compute_loss(x=moved, y=y, y_pred=self(moved, training=True), sample_weight=weight)
        self.optimizer.apply_gradients(zip(tape.gradient(loss, self.trainable_variables), self.trainable_variables))
        return {"loss": loss, "rate": self.optimizer.learning_rate}
