"""TensorFlow's graphs while they are traced."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import tensorflow as tf
from tensorflow.core.framework import attr_value_pb2
from tensorflow.python.eager import context


def read_instead(op: Any, index: int, tensor: tf.Tensor) -> None:
    """Let an op of the graph that is being traced read `tensor` as its input of this index.

    Why: who reads a tensor is known only when the whole step has been traced, and an op's inputs can't be changed by public
    means. `_update_input` does it (TensorFlow >= 1.11).
    """
    op._update_input(index, tensor)


def make_unlike(op: Any) -> None:
    """Mark an op, so that TensorFlow takes no other one for its equal unless that is marked too.

    Why: attributes of an op that is there already can't be set by public means (TensorFlow >= 1.11).
    """
    op._set_attr("_fitcore_watches", attr_value_pb2.AttrValue(b=True))


@contextlib.contextmanager
def no_op_callbacks() -> Iterator[None]:
    """Make ops that nothing is told of which was asked to look at all of them: `tf.debugging.enable_check_numerics`.

    Why: what measures says "not measured" by NaN, which is no fault of the training. The public `disable_check_numerics` is for
    that one kind, and forgets its arguments. The context has the list (TensorFlow >= 2.2).
    """
    callbacks = context.context().op_callbacks
    kept = list(callbacks)
    callbacks.clear()
    try:
        yield
    finally:
        callbacks[:] = kept
