"""Models that keep state outside of Keras's lists, each in another place; for test_checkpoint_outside.py and others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf
from keras import layers


class TwoOptimizers(keras.Model):
    """As a GAN has them: each of two layers by an optimizer of its own, made in the first step."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = layers.Dense(3), layers.Dense(1)
        self.optimizers = {"a": keras.optimizers.Adam(0.05), "b": keras.optimizers.SGD(0.05, momentum=0.9)}

    def call(self, x: Any) -> Any:
        return self.b(self.a(x))

    def train_step(self, batch: Any) -> dict[str, Any]:
        x, y = batch
        with tf.GradientTape(persistent=True) as tape:
            loss = tf.reduce_mean((self(x) - y) ** 2)
        for layer, optimizer in ((self.a, self.optimizers["a"]), (self.b, self.optimizers["b"])):
            weights = layer.trainable_weights
            optimizer.apply_gradients(zip(tape.gradient(loss, weights), weights))
        return {"loss": loss}


class Step(keras.Model):
    """Its step adds to the loss what `extra(mean of the outputs)` gives: there is the state."""

    def __init__(self, extra: Callable[[Any], Any]) -> None:
        super().__init__()
        self.dense, self.extra = layers.Dense(1), extra

    def call(self, x: Any) -> Any:
        return self.dense(x)

    def train_step(self, batch: Any) -> dict[str, Any]:
        x, y = batch
        with tf.GradientTape() as tape:
            p = self(x)
            loss = tf.reduce_mean((p - y - self.extra(tf.stop_gradient(tf.reduce_mean(p)))) ** 2)
        self.optimizer.apply_gradients(zip(tape.gradient(loss, self.trainable_weights), self.trainable_weights))
        return {"loss": loss}


class Centered(keras.losses.Loss):
    """Its center runs behind the outputs; `move` says how it is assigned."""

    def __init__(self, move: Callable[[Any, Any], Any], variable: Callable[[float], Any] = tf.Variable) -> None:
        super().__init__()
        self.center, self.move = variable(0.0), move

    def call(self, y: Any, p: Any) -> Any:
        self.move(self.center, 0.5 * self.center + 0.5 * tf.reduce_mean(tf.stop_gradient(p)))
        return tf.reduce_mean((p - y - self.center) ** 2, -1)


class Drifting(layers.Layer):
    """A layer with a plain variable."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = tf.Variable(0.0, trainable=False)

    def call(self, x: Any) -> Any:
        self.seen.assign(0.9 * self.seen + tf.reduce_mean(x))
        return x - tf.stop_gradient(self.seen)


def assigned(center: Any, value: Any) -> None:
    center.assign(value)


def assigned_in_branch(center: Any, value: Any) -> None:
    tf.cond(value > 0, lambda: center.assign(value), lambda: center.assign_add(0.1))


def assigned_in_function(center: Any, value: Any) -> None:
    tf.function(lambda given: center.assign(given))(value)


def table() -> Callable[[Any], Any]:
    """Counts in a table, by the sign of the outputs' mean."""
    counts = tf.lookup.experimental.MutableHashTable(tf.string, tf.float32, 0.0)

    def count(mean: Any) -> Any:
        key = tf.where(mean > 0, ["above"], ["below"])
        counts.insert(key, counts.lookup(key) + 1.0)
        return 0.05 * tf.reduce_sum(counts.lookup(tf.constant(["above", "below"])) * [1.0, -0.5])

    return count


def dense_table() -> Callable[[Any], Any]:
    counts = tf.lookup.experimental.DenseHashTable(tf.int64, tf.float32, 0.0, -1, -2)

    def count(mean: Any) -> Any:
        key = tf.cast([mean > 0], tf.int64)
        counts.insert(key, counts.lookup(key) + mean)
        return 0.05 * tf.reduce_sum(counts.lookup(tf.constant([0, 1], tf.int64)))

    return count


def generator() -> Callable[[Any], Any]:
    own = tf.random.Generator.from_seed(3)
    return lambda mean: own.normal([])


GLOBAL: dict[str, Any] = {}


def in_a_global(mean: Any) -> Any:
    """The variable is in a global of the module: nothing that the model holds leads to it but the function's own code."""
    GLOBAL["center"].assign(0.5 * GLOBAL["center"] + 0.5 * mean)
    return GLOBAL["center"]


def hidden() -> Callable[[Any], Any]:
    """The variable can't be reached: only the traced program knows it."""
    kept = [tf.Variable(0.0)]

    class Out:
        __slots__ = ()

        def __call__(self, mean: Any) -> Any:
            return _out(mean)

    _OUT.append(kept[0])
    return Out()


_OUT: list[Any] = []


def _out(mean: Any) -> Any:
    return getattr(__import__(__name__), "".join(["_", "OUT"]))[-1].assign_add(mean)


def queue() -> Callable[[Any], Any]:
    waiting = tf.queue.FIFOQueue(8, [tf.float32], [[]])
    waiting.enqueue(0.0)

    def swap(mean: Any) -> Any:
        waiting.enqueue(mean)
        return waiting.dequeue()

    return swap


def iterator() -> Callable[[Any], Any]:
    numbers = iter(tf.data.Dataset.range(1000))
    return lambda mean: 0.01 * tf.cast(next(numbers), tf.float32)


def stepping(extra: Callable[[Any], Any]) -> keras.Model:
    model = Step(extra)
    model(tf.zeros([1, 3]))
    model.compile(keras.optimizers.SGD(0.02))
    return model


def two_optimizers() -> keras.Model:
    model = TwoOptimizers()
    model(tf.zeros([1, 3]))
    model.compile()
    return model


def with_loss(loss: Any, *body: Any) -> keras.Model:
    model = keras.Sequential([keras.Input((3,)), *body, layers.Dense(1)])
    model.compile(keras.optimizers.SGD(0.02), loss)
    return model


def global_center() -> keras.Model:
    GLOBAL["center"] = tf.Variable(0.0)
    return stepping(in_a_global)


MODELS: dict[str, Callable[[], keras.Model]] = {
    "two_optimizers": two_optimizers,
    "loss": lambda: with_loss(Centered(assigned)),
    "keras_variable_in_loss": lambda: with_loss(Centered(assigned, keras.Variable)),
    "layer": lambda: with_loss("mse", Drifting()),
    "table": lambda: stepping(table()),
    "dense_table": lambda: stepping(dense_table()),
    "generator": lambda: stepping(generator()),
    "global": global_center,
    "hidden": lambda: stepping(hidden()),
}
