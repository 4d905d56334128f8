"""Losses and metrics that see batches of unknown size, as Keras traces them."""

from __future__ import annotations

import contextlib
import contextvars
import functools
from collections.abc import Callable, Iterator
from typing import Any

import keras
import tensorflow as tf

from fitcore.keras_private.layers import replaced

_graph: contextvars.ContextVar[Any] = contextvars.ContextVar("graph", default=None)  # in which sizes are to be unknown


def size_unknown(nest: Any) -> Any:
    """Tensors of a batch for a loss or a metric: within `losses_see_no_size` with an unknown first dimension, else unchanged.

    Also unchanged is what is traced in a graph within the step's, example by example: its size is not a batch's.
    """
    graph = _graph.get()
    if graph is None or tf.compat.v1.get_default_graph() is not graph:
        return nest
    return keras.tree.map_structure(lambda each: _unknown(each) if isinstance(each, tf.Tensor) else each, nest)


def _unknown(tensor: tf.Tensor) -> tf.Tensor:
    """Why: `_keras_mask` is where losses and metrics look for a mask (Keras >= 3.0)."""
    shape = tensor.shape
    if not shape.rank or shape[0] is None:
        return tensor

    def forgotten(tensor: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
        same = tf.raw_ops.PlaceholderWithDefault(input=tensor, shape=[None, *shape[1:]])
        return same, lambda above: tf.ensure_shape(above, shape)

    same: tf.Tensor = tf.custom_gradient(forgotten)(tensor)
    mask = getattr(tensor, "_keras_mask", None)
    if mask is not None:
        same._keras_mask = _unknown(mask)
    return same


@contextlib.contextmanager
def losses_see_no_size(model: Any) -> Iterator[None]:
    """While a step is traced inside for batches of a known size, losses and metrics don't see it.

    A loss of several outputs weighs the mean of each by `y_pred.shape[0]`, which is None wherever Keras traces a step. There a
    smaller last batch counts as much as the others.

    Why: `train_step`s of users call `compute_loss` and `compute_metrics`, which end up in these two objects (Keras >= 3.0).
    """
    token = _graph.set(tf.compat.v1.get_default_graph())
    try:
        with contextlib.ExitStack() as changed:
            for name, method in (("_compile_loss", "call"), ("_compile_metrics", "update_state")):
                owner = getattr(model, name, None)
                if owner is not None:
                    changed.enter_context(replaced(owner, method, functools.partial(_called, getattr(owner, method))))
            yield
    finally:
        _graph.reset(token)


def _called(method: Callable[..., Any], y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
    return method(*size_unknown((y_true, y_pred, sample_weight)))
