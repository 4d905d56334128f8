"""What the processes of a cluster decide together, between two compiled calls.

An op that sums over workers waits for all of them: each must make the same calls, of as many steps. What one of them decides by
itself, by its clock or because a signal came to it, is therefore agreed on first.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import tensorflow as tf


def is_cluster(strategy: tf.distribute.Strategy) -> bool:
    """Whether a strategy's replicas are in several processes."""
    return isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy) and len(_workers(strategy)) > 1


def worker_index(strategy: tf.distribute.Strategy) -> int:
    """Which of the strategy's processes this is, from 0; the chief comes first."""
    resolver = strategy.cluster_resolver
    return _workers(strategy).index((resolver.task_type, resolver.task_id))


class Agreement:
    """Of all processes of a strategy. Every one must call the same methods, in the same order.

    Args:
      strategy: one for which `is_cluster`.
    """

    def __init__(self, strategy: tf.distribute.Strategy) -> None:
        self._strategy = strategy
        self.worker = worker_index(strategy)
        self._gather = tf.function(self._of_all, autograph=False)
        self._total = tf.function(self._summed, input_signature=[tf.TensorSpec([2], tf.int64)], autograph=False)

    def any(self, first: bool, second: bool = False) -> tuple[bool, bool]:
        """Whether any process says yes, to each of two questions."""
        yes = self._totals(int(first), int(second))
        return bool(yes[0]), bool(yes[1])

    def steps(self, wanted: int) -> int:
        """As many steps as they want on average, rounded down."""
        return int(self._totals(wanted, 0)[0]) // int(self._strategy.num_replicas_in_sync)

    def alike(self, number: int) -> bool:
        """Whether all have the same number, of up to 31 bits."""
        replicas = int(self._strategy.num_replicas_in_sync)
        total, squares = self._totals(number, number * number)
        return bool(replicas * squares == total * total)  # else greater: Cauchy and Schwarz

    def gathered(self, values: Sequence[tf.Tensor]) -> list[np.ndarray]:
        """For each value of this process those of all, [processes, ...]; of one replica in each process."""
        return [np.asarray(each) for each in self._gather(tuple(values))] if values else []

    def _of_all(self, values: tuple[tf.Tensor, ...]) -> list[tf.Tensor]:
        def of_replica(*own: tf.Tensor) -> list[tf.Tensor]:
            context = tf.distribute.get_replica_context()
            return [context.all_gather(value[tf.newaxis], axis=0) for value in own]

        gathered = self._strategy.run(of_replica, args=values)
        return [self._strategy.experimental_local_results(each)[0] for each in gathered]

    def _totals(self, first: int, second: int) -> np.ndarray:
        return np.asarray(self._total(tf.constant([first, second], tf.int64)))

    def _summed(self, values: tf.Tensor) -> tf.Tensor:
        return self._strategy.reduce(tf.distribute.ReduceOp.SUM, self._strategy.run(lambda own: own, (values,)), axis=None)


def _workers(strategy: tf.distribute.Strategy) -> list[tuple[str, int]]:
    """(type, number) of each task that trains."""
    if strategy.cluster_resolver is None:
        return []
    cluster = strategy.cluster_resolver.cluster_spec().as_dict()
    return [(kind, i) for kind in ("chief", "worker") for i in range(len(cluster.get(kind, ())))]
