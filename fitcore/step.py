"""One step of training and one of evaluation, in the open.

Everything that happens to a batch happens here, in this order: forward, loss, gradient, recorded scalars, optimizer,
metrics. It is `keras.Model.train_step` and `test_step` written out (Keras 3.12 to 3.15, TensorFlow backend), with its
parts handed over: the same ops in the same order give the same bits.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import keras
import tensorflow as tf

from fitcore import aside, replicas
from fitcore.errors import ModelError
from fitcore.optimizers.measured import measured
from fitcore.tracing import on_replicas, total


class Optimizer(Protocol):
    """What the step needs of an optimizer. Every Keras optimizer has it, and a class of one's own needs no more.

    It may also have, and every Keras optimizer has:
      learning_rate: a `tf.Variable`, or a property that can be set; for schedules and hooks that set it.
      scale_loss: (loss) -> the loss to differentiate, for mixed precision; `apply_gradients` must undo the scale.
      iterations: steps done so far, a counter among the variables; without it each fit counts its steps from 0.
      noise: a `fitcore.GradientNoise`, for an optimizer that needs the gradient noise. Its `apply_gradients` is then called
        with a second argument, what was measured in this very step: a `fitcore.optimizers.Measured`.
    """

    variables: Any  # all its state, as a sequence of variables: what is saved and restored. Needed from `build` on

    def build(self, variables: Sequence[Any]) -> Any:
        """Make the state for these variables. Called once, before the first update, outside of any graph."""

    def apply_gradients(self, grads_and_vars: Iterable[tuple[Any, Any]]) -> Any:
        """Update the variables; traced into the step. A gradient may be None or `tf.IndexedSlices`."""


def check_optimizer(optimizer: Any) -> None:
    """Refuse what isn't an optimizer.

    Raises:
      TypeError: a method of `Optimizer` is missing.
    """
    missing = [name for name in ("build", "apply_gradients") if not callable(getattr(optimizer, name, None))]
    if missing or isinstance(optimizer, type):
        what = (
            "give an instance of this class" if isinstance(optimizer, type) else f"it has no method {' and no '.join(missing)}"
        )
        raise TypeError(
            f"`optimizer` must be a Keras optimizer or have the methods of fitcore.step.Optimizer; {what}. "
            f"Received: optimizer={optimizer!r} of type {type(optimizer).__name__}"
        )


def ensure_built(optimizer: Any, variables: Sequence[Any]) -> None:
    """Let an optimizer of one's own make its state, once. Keras's build themselves, at their first update.

    Raises:
      TypeError: it has no `variables` afterwards.
    """
    if isinstance(optimizer, keras.optimizers.Optimizer) or getattr(optimizer, "built", False):
        return
    with tf.init_scope():  # out of the graph that is being traced
        optimizer.build(list(variables))
    optimizer.built = True
    if not isinstance(getattr(optimizer, "variables", None), (list, tuple)):
        raise TypeError(
            "`optimizer`: after `build`, `variables` must be a list of all its state. "
            f"Received: {type(optimizer).__name__} with variables={getattr(optimizer, 'variables', None)!r}"
        )


def scaled(optimizer: Any, loss: tf.Tensor) -> tf.Tensor:
    """The loss to differentiate."""
    scale_loss = getattr(optimizer, "scale_loss", None)
    return loss if scale_loss is None else scale_loss(loss)


def set_learning_rate(optimizer: Any, value: Any) -> None:
    """Set the learning rate, in the graph or outside.

    Raises:
      TypeError: there is none that can be set.
    """
    current = getattr(optimizer, "learning_rate", None)
    if isinstance(current, tf.Variable) and not isinstance(optimizer, keras.optimizers.Optimizer):
        current.assign(tf.cast(value, current.dtype))
    elif isinstance(getattr(type(optimizer), "learning_rate", None), property):
        optimizer.learning_rate = value
    else:  # a plain number would be a constant of the compiled step
        raise TypeError(
            "A learning rate can only be set if `optimizer.learning_rate` is a tf.Variable or a property. "
            f"Received: {type(optimizer).__name__} with learning_rate={current!r}"
        )


@dataclass(frozen=True)
class Parts:
    """The replaceable parts of a step. Each is called while the step is traced, once per program.

    Attributes:
      forward: (x, training) -> y_pred.
      loss: (x, y, y_pred, sample_weight, training) -> scalar, everything to be minimized included.
      track_loss: (loss, rows in the batch) -> None; keeps the running mean that the logs call `loss`.
      update_metrics: (x, y, y_pred, sample_weight) -> logs of this step, or None for "the metrics' results".
      metrics: () -> all metrics, loss included, in the order of the logs.
      trainable: () -> the variables to train.
      optimizer: an `Optimizer`; None can only evaluate.
    """

    forward: Callable[[Any, bool], Any]
    loss: Callable[[Any, Any, Any, Any, bool], tf.Tensor]
    track_loss: Callable[[tf.Tensor, tf.Tensor], Any]
    update_metrics: Callable[[Any, Any, Any, Any], dict[str, Any] | None]
    metrics: Callable[[], Sequence[keras.metrics.Metric]]
    trainable: Callable[[], Sequence[Any]]
    optimizer: Optimizer | None


@dataclass(frozen=True)
class Observation:
    """What a recorder sees of a step: after the gradient, before the update. Symbolic; read, never assign.

    Attributes:
      step: index of the optimizer step, int64 scalar.
      x, y, sample_weight, y_pred: the batch and the model's output for it.
      loss: this batch's own loss, regularization included; scalar.
      gradients: of `optimizer.scale_loss(loss)`, one per variable: tensor, `tf.IndexedSlices` or None.
      variables: the trainable variables, before the update.
      optimizer: the optimizer, before the update.
    """

    step: tf.Tensor
    x: Any
    y: Any
    sample_weight: Any
    y_pred: Any
    loss: tf.Tensor
    gradients: Sequence[Any]
    variables: Sequence[Any]
    optimizer: Any


# -> a real scalar or vector, kept as float64, or a function that gives it once the update is done; an empty vector isn't kept
Recorder = Callable[[Observation], tf.Tensor | Callable[[], tf.Tensor]]


def gradient_norm(seen: Observation) -> tf.Tensor:
    """Euclidean norm of the whole gradient as the optimizer gets it: loss scale undone, before any clipping."""
    dense = [tf.convert_to_tensor(g) for g in seen.gradients if g is not None]  # sums rows an embedding met twice
    squares = [tf.reduce_sum(tf.square(tf.cast(g, tf.float32 if g.dtype.size < 4 else g.dtype))) for g in dense]
    norm = tf.sqrt(sum((tf.cast(s, tf.float64) for s in squares), tf.zeros([], tf.float64)))  # of none, where all is frozen
    return norm / tf.cast(scaled(seen.optimizer, tf.ones((), tf.float32)), tf.float64)


RECORDERS: Mapping[str, Recorder] = {
    "step/loss": lambda seen: seen.loss,
    "step/learning_rate": lambda seen: tf.convert_to_tensor(seen.optimizer.learning_rate),
    "step/gradient_norm": gradient_norm,
}


class Probe(Protocol):
    """Measures what the gradient alone doesn't tell, from the pass that is made anyway: `fitcore.noise.Probe` is one."""

    def watching(self) -> contextlib.AbstractContextManager[None]:
        """Around the forward pass; must add no op to it."""

    def taps(self, x: Any, variables: Sequence[Any], loss: tf.Tensor) -> list[Any]:
        """Tensors whose gradients it wants too; `loss` is what is differentiated."""

    def measure(
        self, seen: Observation, taps: Sequence[Any], deltas: Sequence[Any], scaled: bool, parts: Parts, own: Sequence[Any]
    ) -> tf.Tensor:
        """The record, from the gradients at the taps; `scaled`: whether `optimizer.scale_loss` is in all gradients; `own`: the
        weights' gradients on this replica alone."""


def train_step(
    parts: Parts,
    batch: Any,
    step: tf.Tensor,
    recorders: Mapping[str, Recorder],
    probes: Mapping[str, Probe] = {},
    for_optimizer: str | None = None,
) -> tuple[Any, dict[str, Any]]:
    """Train on one batch.

    Args:
      parts: what the step is made of.
      batch: x, (x,), (x, y) or (x, y, sample_weight), as Keras's data adapters give it.
      step: index of this optimizer step, int64 scalar.
      recorders: scalars to compute, by name.
      probes: what else to measure, by name.
      for_optimizer: which of them measures what the optimizer asks for.

    Returns:
      (logs or None, recorded scalars by name).
    """
    x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(batch)
    optimizer = parts.optimizer
    assert optimizer is not None

    with tf.GradientTape() as tape:
        with contextlib.ExitStack() as watching:
            for probe in probes.values():
                watching.enter_context(probe.watching())
            y_pred = parts.forward(x, True)
        loss = parts.loss(x, y, y_pred, sample_weight, True)
        parts.track_loss(loss, rows_of(x))
        objective = scaled(optimizer, loss)

    variables = parts.trainable()
    ensure_built(optimizer, variables)
    taps = {name: probe.taps(x, variables, objective) for name, probe in probes.items()}
    wanted: Any = (list(variables), taps)
    gradients, deltas = tape.gradient(objective, wanted) if variables else wanted  # one pass backward for both

    watched = [apart(gradient) for gradient in gradients] if on_replicas() else gradients  # to be summed up
    whole: tuple[Any, Sequence[Any]] = loss, watched  # of all replicas together
    handed_over: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext
    if on_replicas():
        sums = replicas.Totals(gradients, watched, optimizer)
        whole, handed_over = (total(apart(loss)), sums), sums.handed_over
    seen = Observation(step, x, y, sample_weight, y_pred, *whole, variables, optimizer)
    recorded: dict[str, Any] = {}
    with aside.watching():
        for name, recorder in recorders.items():
            value = recorder(seen)
            recorded[name] = value if callable(value) else tf.convert_to_tensor(value)  # read before the update
        for name, probe in probes.items():
            recorded[name] = probe.measure(seen, taps[name], deltas[name], objective is not loss, parts, watched)

    if variables:
        noise = () if for_optimizer is None else (measured(probes[for_optimizer], recorded[for_optimizer]),)
        with handed_over():
            optimizer.apply_gradients(zip(gradients, variables), *noise)

    with aside.watching():
        recorded = {name: tf.convert_to_tensor(value()) if callable(value) else value for name, value in recorded.items()}
    logs = parts.update_metrics(x, y, y_pred, sample_weight)
    return logs, recorded


def apart(tensor: Any) -> Any:
    """The same value for those who only watch, by ops of its own where it is a product or a sum.

    TensorFlow rearranges (a * b) * rate to a * (b * rate) if nobody else wants a * b: reading it would change last bits of the
    training. Ops that are equal but for an `ensure_shape` are not merged with those of the training.
    """
    if isinstance(tensor, tf.IndexedSlices):
        return tf.IndexedSlices(apart(tensor.values), tensor.indices, tensor.dense_shape)
    if tensor is None or tf.executing_eagerly():
        return tensor
    operation = tensor.op
    match operation.type:
        case "Identity":
            return apart(operation.inputs[0])
        case "Reshape":
            return tf.reshape(apart(operation.inputs[0]), operation.inputs[1])
        case "Mul" | "AddV2" as kind:
            a, b = (apart(part) for part in operation.inputs)
            a = tf.ensure_shape(a, a.shape)
            return a * b if kind == "Mul" else a + b
    return tensor


def test_step(parts: Parts, batch: Any) -> Any:
    """Evaluate one batch; returns its logs or None. Arguments as for `train_step`."""
    x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(batch)
    y_pred = parts.forward(x, False)
    loss = parts.loss(x, y, y_pred, sample_weight, False)
    parts.track_loss(loss, rows_of(x))
    return parts.update_metrics(x, y, y_pred, sample_weight)


def metric_results(metrics: Sequence[keras.metrics.Metric]) -> dict[str, Any]:
    """The metrics' running values by name: what Keras's logs hold after a step."""
    results: dict[str, Any] = {}
    for metric in metrics:
        result = metric.result()
        results.update(result if isinstance(result, dict) else {metric.name: result})
    return results


def check_logs(logs: Any, method: str) -> Any:
    """The logs that a method of the model's class returned.

    Raises:
      ModelError: there are none, or they are no dict. Run eagerly, where there are none, Keras's InvalidArgumentError.
    """
    if isinstance(logs, Mapping) and logs:
        return logs
    message = f"`model`: its {method} must return a dict of logs, not an empty one. Received: {logs!r}"
    if tf.executing_eagerly() and not keras.tree.flatten(logs or []):
        raise tf.errors.InvalidArgumentError(None, None, message)
    raise ModelError(message)


def rows_of(data: Any) -> tf.Tensor:
    """Rows in the batch: the weight of its loss in the epoch's mean, whatever the sample weights."""
    return tf.shape(next(leaf for leaf in keras.tree.flatten(data) if leaf is not None))[0]
