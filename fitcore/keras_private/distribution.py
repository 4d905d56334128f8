"""tf.distribute, as Keras's trainer uses it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import tensorflow as tf
from keras.src.backend.tensorflow.trainer import _collective_all_reduce_multi_worker, reduce_per_replica
from keras.src.losses.loss import unscale_loss_for_distribution

from fitcore.keras_private.resources import captured_variables


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


def build_in_cluster(model: Any, strategy: tf.distribute.Strategy, batch: Any) -> None:
    """Let Keras make all variables of a model under a strategy of several processes, from a nest of specs of a replica's batch.

    Why: there Keras's own way raises, since it can't read a `PerReplica`'s shape, and takes a batch (Keras 3.2 to 3.15).
    """
    with strategy.scope():
        model._symbolic_build(data_batch=batch)


def unscaled_loss(loss: tf.Tensor) -> tf.Tensor:
    """A replica's own loss, the division by the number of replicas undone; the same tensor where there is one replica.

    Why: Keras's tracker of the loss gets this; the function isn't public (Keras >= 3.2).
    """
    return unscale_loss_for_distribution(loss)


def mean_over_replicas(logs: Any, strategy: tf.distribute.Strategy) -> Any:
    """Logs of all replicas as one. Why: Keras's logs are made so, by these ops in this order (Keras >= 3.0).

    Of scalars Keras can't make the mean over several processes: "Invalid reduction dimension 0" (3.0 to 3.15).
    """

    def mean(log: Any) -> Any:
        if in_cluster and strategy.experimental_local_results(log)[0].shape.rank == 0:
            return strategy.reduce(tf.distribute.ReduceOp.MEAN, log, axis=None)
        return reduce_per_replica(log, strategy, reduction="auto")

    in_cluster = _collective_all_reduce_multi_worker(strategy)
    return tf.nest.map_structure(mean, logs)


def sums_over_replicas(optimizer: Any) -> bool:
    """Whether Keras's update begins with a sum over replicas, and has a copy of each variable on each.

    Why: an optimizer keeps the strategy that it was made under to itself (Keras >= 3.0).
    """
    strategy = optimizer._distribution_strategy
    mirrors = isinstance(strategy, (tf.distribute.MirroredStrategy, tf.distribute.MultiWorkerMirroredStrategy))
    return mirrors or bool(strategy.num_replicas_in_sync > 1)


def let_copies_agree(graph: tf.Graph) -> None:
    """Give each variable of a traced step that its strategy keeps equal on all replicas the first replica's value on all.

    Such a variable, for example the optimizer's count of steps, is equal until a step fails: its new value is sent from one
    replica to the others, and the failure may overtake it. A variable without aggregation is each replica's own business.

    Why: only a copy's handle leads to the variable that holds all copies (TensorFlow >= 2.6).
    """
    holders = [getattr(copy.handle, "_distributed_container", lambda: None)() for copy in captured_variables(graph)]
    for holder in {id(each): each for each in holders if each is not None}.values():
        synchronized_on_write = holder.synchronization != tf.VariableSynchronization.ON_READ
        if synchronized_on_write and holder.aggregation != tf.VariableAggregation.NONE:
            first, *others = holder.values
            for other in others:
                other.assign(first)
