"""tf.distribute, as Keras's trainer uses it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import tensorflow as tf
from keras.src.backend.tensorflow.trainer import reduce_per_replica
from keras.src.losses.loss import unscale_loss_for_distribution


def strategy_of(model: Any) -> tf.distribute.Strategy | None:
    """The tf.distribute strategy by which Keras runs the model's steps, the one it was made under or the current one, or None.

    Why: the public `distribute_strategy` is never None, and TensorFlow's default one can't be told from others (Keras >= 3.0).
    """
    distributed = model._distribute_strategy is not None or tf.distribute.has_strategy()
    return model.distribute_strategy if distributed else None


def build_variables(model: Any, batch: Any = None, feeds: Iterable[Any] | None = None) -> None:
    """Let Keras make all variables of a model that has a strategy, as it does in each fit and each evaluation.

    Args:
      model: nothing is done if it was made without a strategy.
      batch: a nest of what has a shape and a dtype, which tells the model's inputs and targets; or instead
      feeds: of the first of these iterators one batch is taken, whatever is built already.

    Why: variables can't be made inside a replica, and reading a batch moves generators on; not public (Keras >= 3.2).
    """
    model._maybe_symbolic_build(None if feeds is None else ((0, 0, feed) for feed in feeds), batch)


def unscaled_loss(loss: tf.Tensor) -> tf.Tensor:
    """A replica's own loss, the division by the number of replicas undone; the same tensor where there is one replica.

    Why: Keras's tracker of the loss gets this; the function isn't public (Keras >= 3.2).
    """
    return unscale_loss_for_distribution(loss)


def mean_over_replicas(logs: Any, strategy: tf.distribute.Strategy) -> Any:
    """Logs of all replicas as one. Why: Keras's logs are made so, by these ops in this order (Keras >= 3.0)."""
    return reduce_per_replica(logs, strategy, reduction="auto")


def sums_over_replicas(optimizer: Any) -> bool:
    """Whether Keras's update begins with a sum over replicas, and has a copy of each variable on each.

    Why: an optimizer keeps the strategy that it was made under to itself (Keras >= 3.0).
    """
    strategy = optimizer._distribution_strategy
    mirrors = isinstance(strategy, (tf.distribute.MirroredStrategy, tf.distribute.MultiWorkerMirroredStrategy))
    return mirrors or bool(strategy.num_replicas_in_sync > 1)
