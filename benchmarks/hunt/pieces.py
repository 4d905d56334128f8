"""What users write themselves: layers, losses, metrics, train steps, callbacks, sources. A script gets those that it uses."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers

# --- layers ---------------------------------------------------------------------------------------------------------------


class Counts(layers.Layer):
    """Counts its calls in training, and lets the count be felt."""

    def build(self, shape: Any) -> None:
        self.calls = self.add_weight(shape=(), initializer="zeros", trainable=False, name="calls")

    def call(self, x: Any, training: bool = False) -> Any:
        if training:
            self.calls.assign_add(1.0)
        return x * keras.ops.cast(1 + 0.01 * self.calls, x.dtype)


class RunningCentre(layers.Layer):
    """Takes away a running mean."""

    def build(self, shape: Any) -> None:
        self.mean = self.add_weight(shape=(shape[-1],), initializer="zeros", trainable=False, name="mean")

    def call(self, x: Any, training: bool = False) -> Any:
        if training:
            now = keras.ops.mean(x, axis=tuple(range(len(x.shape) - 1)))
            self.mean.assign(0.9 * self.mean + 0.1 * keras.ops.cast(now, self.mean.dtype))
        return x - keras.ops.cast(self.mean, x.dtype)


class OwnNoise(layers.Layer):
    """Adds noise from its own seed generator."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.seed = keras.random.SeedGenerator(11)

    def call(self, x: Any) -> Any:
        return x + 0.1 * keras.random.normal(keras.ops.shape(x), dtype=x.dtype, seed=self.seed)


class DrawsByTensorFlow(layers.Layer):
    """Adds noise as TensorFlow 2's guides do."""

    def call(self, x: Any, training: bool = False) -> Any:
        return x + 0.1 * tf.random.normal(tf.shape(x), dtype=x.dtype) if training else x


class Penalty(layers.Layer):
    """Adds a loss."""

    def __init__(self, rate: float = 0.01, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.rate = rate

    def call(self, x: Any) -> Any:
        self.add_loss(self.rate * keras.ops.mean(keras.ops.square(x)))
        return x


class PlainVariable(layers.Layer):
    """Keeps a variable of TensorFlow's, which Keras doesn't see."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.seen = tf.Variable(1.0, trainable=False)

    def call(self, x: Any, training: bool = False) -> Any:
        if training:
            self.seen.assign(self.seen * 1.01)
        return x * tf.cast(self.seen, x.dtype)


class Reverses(layers.Layer):
    """Turns the sign of the gradient."""

    def call(self, x: Any) -> Any:
        @tf.custom_gradient
        def turned(value: Any) -> Any:
            return tf.identity(value), lambda gradient: -0.5 * gradient

        return turned(x)


class Gated(layers.Layer):
    """SwiGLU: two products, one through swish."""

    def __init__(self, units: int, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.gate, self.value = layers.Dense(units, use_bias=False), layers.Dense(units, use_bias=False)

    def call(self, x: Any) -> Any:
        return keras.ops.silu(self.gate(x)) * self.value(x)


class Residual(layers.Layer):
    """A block with weights of its own and inner layers."""

    def __init__(self, activation: Any, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.norm, self.act = layers.LayerNormalization(), layers.Activation(activation)

    def build(self, shape: Any) -> None:
        self.kernel = self.add_weight(shape=(shape[-1], shape[-1]), initializer="glorot_uniform", name="kernel")
        self.norm.build(shape)

    def call(self, x: Any) -> Any:
        return x + self.act(keras.ops.matmul(self.norm(x), self.kernel))


class SwishUnit(layers.Layer):
    """x * sigmoid(b * x) with a trained b."""

    def build(self, shape: Any) -> None:
        self.slope = self.add_weight(shape=(), initializer="ones", name="slope")

    def call(self, x: Any) -> Any:
        return x * keras.ops.sigmoid(self.slope * x)


class Tied(layers.Layer):
    """Multiplies by another layer's kernel, transposed."""

    def __init__(self, other: Any, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.other = other

    def call(self, x: Any) -> Any:
        return keras.ops.matmul(x, keras.ops.transpose(keras.ops.cast(self.other.kernel, x.dtype)))


# --- losses and metrics ---------------------------------------------------------------------------------------------------


def relative_square(y: Any, p: Any) -> Any:
    return keras.ops.mean(keras.ops.square(p - y) / (1 + keras.ops.abs(y)), axis=-1)


class Asymmetric(keras.losses.Loss):
    """Errors to one side count less."""

    def __init__(self, share: float, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.share = share

    def call(self, y: Any, p: Any) -> Any:
        error = p - keras.ops.cast(y, p.dtype)
        return keras.ops.mean(keras.ops.where(error > 0, error, -self.share * error), axis=-1)


class RemembersLoss(keras.losses.Loss):
    """Divides by a running mean of itself, which it keeps in a variable of its own."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.mean = tf.Variable(1.0, trainable=False)

    def call(self, y: Any, p: Any) -> Any:
        loss = keras.ops.mean(keras.ops.square(p - keras.ops.cast(y, p.dtype)), axis=-1)
        self.mean.assign(0.9 * self.mean + 0.1 * tf.cast(tf.reduce_mean(loss), tf.float32))
        return loss / tf.cast(self.mean, loss.dtype)


class Spread(keras.metrics.Metric):
    """The standard deviation of all errors."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.sums = self.add_weight(shape=(3,), initializer="zeros", name="sums")

    def update_state(self, y: Any, p: Any, sample_weight: Any = None) -> None:
        error = keras.ops.cast(p, "float32") - keras.ops.cast(y, "float32")
        count = keras.ops.cast(keras.ops.size(error), "float32")
        self.sums.assign_add(keras.ops.stack([count, keras.ops.sum(error), keras.ops.sum(error * error)]))

    def result(self) -> Any:
        return keras.ops.sqrt(self.sums[2] / self.sums[0] - (self.sums[1] / self.sums[0]) ** 2)


def largest_error(y: Any, p: Any) -> Any:
    return keras.ops.max(keras.ops.abs(p - keras.ops.cast(y, p.dtype)), axis=-1)


# --- train steps, in the forms of keras.io's guides -----------------------------------------------------------------------


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
        self.mean_loss, self.size = keras.metrics.Mean(name="own_loss"), keras.metrics.MeanMetricWrapper(self.sizes, name="size")

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

    def compute_loss(self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, training: bool = True) -> Any:
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


# --- callbacks ------------------------------------------------------------------------------------------------------------


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
        self.best, self.weights = float("inf"), []

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        if float(np.mean((logs or {}).get("loss", 0.0))) < self.best:
            self.best, self.weights = float(np.mean(logs["loss"])), self.model.get_weights()

    def on_train_end(self, logs: Any = None) -> None:
        if self.weights:
            self.model.set_weights(self.weights)


class CompilesInEpoch(keras.callbacks.Callback):
    """Thaws all and compiles again while training."""

    def __init__(self, again: bool) -> None:
        super().__init__()
        self.again = again

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        if epoch == 1:
            self.model.trainable = True
            self.model.compile(keras.optimizers.SGD(0.01), self.model.loss)
            if self.again:
                self.model.make_train_function()


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


# --- sources --------------------------------------------------------------------------------------------------------------


class Batches(keras.utils.PyDataset):
    """A PyDataset of these arrays."""

    def __init__(self, parts: tuple[Any, ...], size: int, rows: int) -> None:
        super().__init__()
        self.parts, self.size, self.rows = parts, size, rows

    def __len__(self) -> int:
        return -(-self.rows // self.size)

    def __getitem__(self, i: int) -> Any:
        return keras.tree.map_structure(lambda each: each[i * self.size : (i + 1) * self.size], self.parts)


def generate(parts: tuple[Any, ...], size: int, rows: int) -> Iterator[Any]:
    """Batches without an end."""
    while True:
        for i in range(0, rows, size):
            yield keras.tree.map_structure(lambda each, i=i: each[i : i + size], parts)


def as_dataset(parts: tuple[Any, ...], size: int, shuffled: int, unknown: bool) -> tf.data.Dataset:
    """A tf.data.Dataset; of unknown length if that is asked for."""
    made = tf.data.Dataset.from_tensor_slices(parts)
    if shuffled:
        made = made.shuffle(shuffled)
    if unknown:
        made = made.filter(lambda *row: True)
    return made.batch(size)
