"""An optimizer as a chain of gradient transformations, as in optax: each turns updates into updates.

    Chain(clip_by_global_norm(1.0), scale_by_adam(), add_decayed_weights(1e-4), learning_rate=1e-3)

A `Transformation` is a pair of functions, so that one of one's own is written in a few lines:

    init(variables) -> its state, a list of `tf.Variable`
    update(updates, state, variables, step) -> updates; traced into the step, assigns to its state

At the end of the chain stands: variable <- variable - learning_rate * update.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import tensorflow as tf

Updates = list[tf.Tensor]


class Transformation(NamedTuple):
    """See the module's head."""

    init: Callable[[Sequence[Any]], list[tf.Variable]]
    update: Callable[[Updates, list[tf.Variable], Sequence[Any], tf.Tensor], Updates]


class Chain:
    """An optimizer (`fitcore.step.Optimizer`) made of transformations; give it to a `fitcore.Engine`.

    Args:
      transformations: applied to the gradients in this order. Sparse gradients are made dense; a variable without gradient
        gets zeros, so that momentum and weight decay act on it.
      learning_rate: float; a variable, so that schedules and hooks can set it.

    Raises:
      TypeError: something is no Transformation.
    """

    def __init__(self, *transformations: Transformation, learning_rate: float) -> None:
        for given in transformations:
            if not isinstance(given, Transformation):
                raise TypeError(
                    f"`transformations` must be Transformations. Received: {given!r} of type {type(given).__name__}"
                )
        self.transformations = transformations
        self.learning_rate = tf.Variable(learning_rate, dtype=tf.float64, trainable=False, name="learning_rate")
        self.iterations = tf.Variable(0, dtype=tf.int64, trainable=False, name="iterations")
        self.variables = [self.iterations, self.learning_rate]

    def build(self, variables: Sequence[Any]) -> None:
        self.states = [transformation.init(variables) for transformation in self.transformations]
        self.variables += [variable for state in self.states for variable in state]

    def apply_gradients(self, grads_and_vars: Iterable[tuple[Any, Any]]) -> None:
        gradients, variables = zip(*grads_and_vars)
        updates = [tf.zeros(v.shape, v.dtype) if g is None else tf.convert_to_tensor(g) for g, v in zip(gradients, variables)]
        step = self.iterations.read_value()
        for transformation, state in zip(self.transformations, self.states):
            updates = transformation.update(updates, state, variables, step)
        for variable, update in zip(variables, updates):
            variable.assign_sub(tf.cast(self.learning_rate, update.dtype) * update)
        self.iterations.assign_add(1)


def clip_by_global_norm(norm: float) -> Transformation:
    """Scale all updates down to this Euclidean norm together, if theirs is larger."""

    def update(updates: Updates, state: Any, variables: Any, step: tf.Tensor) -> Updates:
        return tf.clip_by_global_norm(updates, norm)[0]

    return Transformation(lambda variables: [], update)


def trace(decay: float, nesterov: bool = False) -> Transformation:
    """Momentum: t <- decay * t + update, passed on; nesterov: decay * t + update of the new t."""

    def update(updates: Updates, state: list[tf.Variable], variables: Any, step: tf.Tensor) -> Updates:
        traces = [t.assign(decay * t + u, read_value=True) for t, u in zip(state, updates)]
        return [decay * t + u for t, u in zip(traces, updates)] if nesterov else traces

    return Transformation(lambda variables: _zeros(variables, "trace"), update)


def scale_by_adam(beta_1: float = 0.9, beta_2: float = 0.999, epsilon: float = 1e-8) -> Transformation:
    """Adam without its learning rate (Kingma & Ba 2015, arXiv:1412.6980, algorithm 1): m^ / (sqrt(v^) + epsilon)."""

    def update(updates: Updates, state: list[tf.Variable], variables: Any, step: tf.Tensor) -> Updates:
        half, found = len(updates), []
        for u, m, v in zip(updates, state[:half], state[half:]):
            t = tf.cast(step + 1, u.dtype)
            mean = m.assign(beta_1 * m + (1 - beta_1) * u, read_value=True) / (1 - tf.constant(beta_1, u.dtype) ** t)
            square = v.assign(beta_2 * v + (1 - beta_2) * u * u, read_value=True) / (1 - tf.constant(beta_2, u.dtype) ** t)
            found.append(mean / (tf.sqrt(square) + epsilon))
        return found

    return Transformation(lambda variables: _zeros(variables, "m") + _zeros(variables, "v"), update)


def add_decayed_weights(weight_decay: float, mask: Callable[[Any], bool] = lambda variable: True) -> Transformation:
    """Add weight_decay * variable to the updates of variables for which `mask` is true."""

    def update(updates: Updates, state: Any, variables: Sequence[Any], step: tf.Tensor) -> Updates:
        return [u + weight_decay * v if mask(v) else u for u, v in zip(updates, variables)]

    return Transformation(lambda variables: [], update)


def scale_by_schedule(schedule: Callable[[tf.Tensor], Any]) -> Transformation:
    """Multiply by a function of the step: int64 scalar, 0 for the first."""

    def update(updates: Updates, state: Any, variables: Any, step: tf.Tensor) -> Updates:
        factor = schedule(step)
        return [tf.cast(factor, u.dtype) * u for u in updates]

    return Transformation(lambda variables: [], update)


def _zeros(variables: Sequence[Any], name: str) -> list[tf.Variable]:
    return [tf.Variable(tf.zeros(v.shape, v.dtype), trainable=False, name=name) for v in variables]
