"""What is being traced."""

from __future__ import annotations

import contextvars
from typing import Any

import tensorflow as tf

fast = contextvars.ContextVar("fast", default=False)  # whether it is for a fit with numerics="fast"
for_xla = contextvars.ContextVar("for_xla", default=False)  # whether it is for a program of XLA's


def on_replicas() -> bool:
    """Whether it is one replica's part of several."""
    context = tf.distribute.get_replica_context()
    return context is not None and bool(context.num_replicas_in_sync > 1)


def total(value: Any) -> Any:
    """The sum of a tensor, or a list of them, over the replicas, on each of them."""
    return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, value)


def scratch(variable: tf.Variable) -> tf.Variable:
    """The variable, marked as none that is saved: what is in it is written anew before it is read, or saved elsewhere."""
    variable._fitcore_scratch = True
    return variable


def is_scratch(variable: Any) -> bool:
    """Whether `scratch` marked it."""
    return getattr(variable, "_fitcore_scratch", False)
