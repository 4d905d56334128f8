"""Where the parts of a step come from: handed over one by one, or taken from a compiled Keras model."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from fitcore import keras_private
from fitcore.convolutions import by_products
from fitcore.errors import NO_TARGETS
from fitcore.normalization import summed_by_products
from fitcore.onednn import by_onednn
from fitcore.step import Optimizer, Parts, check_logs
from fitcore.tracing import fast, for_xla, on_replicas

Loss = Callable[..., tf.Tensor]  # (y_true, y_pred, sample_weight) -> scalar; a `keras.losses.Loss` is one


def explicit_parts(
    model: Any, optimizer: Optimizer | None, loss: Loss, metrics: list[keras.metrics.Metric], jit_compile: bool
) -> Parts:
    """Parts handed over one by one."""
    tracker = keras.metrics.Mean(name="loss")
    call = model.call if isinstance(model, keras.layers.Layer) else model
    with_training = "training" in inspect.signature(call).parameters

    def total_loss(x: Any, y: Any, y_pred: Any, sample_weight: Any, training: bool) -> tf.Tensor:
        terms = [loss(*keras_private.size_unknown((y, y_pred, sample_weight))), *getattr(model, "losses", ())]
        return terms[0] if len(terms) == 1 else keras.ops.sum(terms)

    def update_metrics(x: Any, y: Any, y_pred: Any, sample_weight: Any) -> None:
        y, y_pred, sample_weight = keras_private.size_unknown((y, y_pred, sample_weight))
        for metric in metrics:
            metric.update_state(y, y_pred, sample_weight)

    return Parts(
        forward=_forward(model, with_training, jit_compile),
        loss=total_loss,
        track_loss=lambda value, rows: tracker.update_state(value, sample_weight=rows),
        update_metrics=update_metrics,
        metrics=lambda: [tracker, *metrics],
        trainable=lambda: model.trainable_variables,
        optimizer=optimizer,
    )


def compiled_parts(model: keras.Model, jit_compile: bool) -> Parts:
    """The parts of a compiled Keras model, its overrides of `compute_loss` and `compute_metrics` included."""
    own_metrics = keras_private.overrides(model, "compute_metrics") or keras_private.overrides(model, "get_metrics_result")
    with_training = keras_private.takes_training(model)
    tracker = keras_private.loss_tracker(model)

    def loss(x: Any, y: Any, y_pred: Any, sample_weight: Any, training: bool) -> tf.Tensor:
        y, y_pred, sample_weight = keras_private.size_unknown((y, y_pred, sample_weight))
        try:
            return keras_private.compute_loss(model, x, y, y_pred, sample_weight, training)
        except ValueError as error:
            # A class of the user's own stays what it is.
            if type(error) is ValueError and y is None and keras_private.has_loss(model):
                raise ValueError(NO_TARGETS) from error
            raise

    def update_metrics(x: Any, y: Any, y_pred: Any, sample_weight: Any) -> dict[str, Any] | None:
        y, y_pred, sample_weight = keras_private.size_unknown((y, y_pred, sample_weight))
        if own_metrics:
            return check_logs(model.compute_metrics(x, y, y_pred, sample_weight=sample_weight), "compute_metrics")
        compiled = keras_private.compile_metrics(model)
        if compiled is not None:
            compiled.update_state(y, y_pred, sample_weight)
        # Keras computes the results in each step. A constant in one of them may be merged with one of the loss's, and
        # TensorFlow orders the terms of a sum by the names of what it merged. Means have no constants.
        if fast.get() or on_replicas() or compiled is None or keras_private.are_means(model):
            return None
        results: dict[str, Any] = model.get_metrics_result()
        return results

    return Parts(
        forward=_forward(model, with_training, jit_compile),
        loss=loss,
        track_loss=lambda value, rows: tracker.update_state(keras_private.unscaled_loss(value), sample_weight=rows),
        update_metrics=update_metrics,
        metrics=lambda: model.metrics,
        trainable=lambda: model.trainable_weights,
        optimizer=model.optimizer,
    )


def _forward(model: Any, with_training: bool, jit_compile: bool) -> Callable[[Any, bool], Any]:
    def forward(x: Any, training: bool) -> Any:
        with contextlib.ExitStack() as changed:
            if not jit_compile:  # else the step must be Keras's to the letter
                unroll = not for_xla.get() and not on_replicas()  # over replicas, written out has other bits
                changed.enter_context(keras_private.lean_recurrence(model, unroll, for_xla.get()))
                on_cpu = not tf.config.list_logical_devices("GPU")
                if on_cpu and for_xla.get():
                    changed.enter_context(by_products(model))
                    changed.enter_context(summed_by_products(model))
                elif on_cpu and training:
                    changed.enter_context(by_onednn(model, exact=not fast.get()))
            return model(x, training=training) if with_training else model(x)

    return forward
