"""Sources under a `tf.distribute` strategy: each replica gets its part of a batch, the same rows as under `model.fit`.

arrays                  ReplicaArraySource   gathered in the loop; one replica: ArraySource itself
everything else         DistributedSource    the strategy's own distributed dataset; arrays too in a cluster of several replicas
                                             in each process
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from fitcore.cluster.agreement import is_cluster, worker_index
from fitcore.data.order import Order
from fitcore.data.sources import ArraySource, DatasetSource, without_optionals


class ReplicaArraySource(ArraySource):
    """Batches gathered by row number from tensors that stay on the device, cut into a part for each replica.

    TensorFlow cuts a batch of n rows for R replicas into pieces of ceil(n / R), so that the last ones may get less, or
    nothing. The rows in a part are static if R divides the batch size and that the number of rows, else unknown, as there;
    in a cluster they are never static.

    Args:
      tensors, batch_size, order: as for `ArraySource`; the batch size is that of all replicas together.
      strategy: of one process, or of several with one replica in each.
    """

    replicated = True
    drew_again: frozenset[str] = frozenset()

    def __init__(self, tensors: Any, batch_size: int, order: Order, strategy: tf.distribute.Strategy) -> None:
        super().__init__(tensors, batch_size, order)
        self._strategy = strategy
        self._replicas = strategy.num_replicas_in_sync
        self._first = worker_index(strategy) if is_cluster(strategy) else 0  # of the replicas in this process
        if self._static is not None and (self._static % self._replicas or is_cluster(strategy)):
            self._static = None
        self.key = ("arrays", id(strategy), *self.key[1:-1], self._static)

    def specs(self) -> tuple[Any, Any]:
        feed, _ = super().specs()
        return feed, _spec_of(lambda feed: self.next_batch(feed, tf.zeros([], tf.int64), None)[1](), feed)

    def next_batch(self, feed: Any, place: tf.Tensor, rows: tf.Tensor | None) -> tuple[tf.Tensor | None, Callable[[], Any]]:
        order, batch_size, tensors = feed

        def part(replica: int) -> Any:
            if self._static is not None:
                size = self._static // self._replicas
                chosen = tf.slice(order, [place * self._static + replica * size], [size])
            else:
                rows_of_all = tf.cast(batch_size, tf.int64)
                begin = place * rows_of_all
                end = tf.minimum(begin + rows_of_all, tf.size(order, out_type=tf.int64))
                piece = (end - begin + self._replicas - 1) // self._replicas
                begin = tf.minimum(begin + replica * piece, end)
                chosen = order[begin : tf.minimum(begin + piece, end)]
            return self._gathered(tensors, chosen)

        return None, lambda: _per_replica(lambda replica: part(self._first + replica), self._strategy)

    def describe(self) -> str:
        return f"{super().describe()}, each cut for {self._replicas} replicas"


class DistributedSource(DatasetSource):
    """Batches from a strategy's distributed dataset, taken inside the compiled loop.

    Args:
      adapter: Keras's data adapter. Its dataset is distributed, and in a cluster sharded, as its options say; one that the
        strategy has distributed already is taken as it is.
      strategy: any.
    """

    def __init__(self, adapter: Any, strategy: tf.distribute.Strategy) -> None:
        super().__init__(adapter)
        self._strategy = strategy
        self.replicated = strategy.num_replicas_in_sync > 1
        if not isinstance(self._dataset, tf.distribute.DistributedDataset):
            self._dataset = strategy.experimental_distribute_dataset(self._dataset)
        self.key = ("distributed dataset", id(strategy), repr(self._dataset.element_spec), not self.num_batches)
        self._specs: tuple[Any, Any] | None = None

    def open_pass(self, pass_index: int) -> Any:
        feed = iter(self._dataset)
        if self._specs is None:
            self._note_specs(feed)
        return feed

    def specs(self) -> tuple[Any, Any]:
        return self._specs or self._note_specs(iter(self._dataset))

    def element_spec(self) -> Any:
        return None  # it isn't known which of Keras's traces would serve it

    def part_spec(self) -> Any:
        """Spec of one replica's part of a batch."""

        def first(leaf: Any) -> Any:
            return self._strategy.experimental_local_results(leaf)[0]

        def part(feed: Any) -> Any:
            return tf.nest.map_structure(first, without_optionals(feed.get_next()))

        return _spec_of(part, self.specs()[0])

    def _note_specs(self, feed: Any) -> tuple[Any, Any]:
        spec = tf.type_spec_from_value(feed)
        self._specs = spec, _spec_of(lambda feed: feed.get_next(), spec)
        return self._specs

    def next_batch(self, feed: Any, place: tf.Tensor, rows: tf.Tensor | None) -> tuple[tf.Tensor | None, Callable[[], Any]]:
        if self.num_batches:  # taken as Keras takes it: else its shapes are known less well
            return None, lambda: without_optionals(feed.get_next())
        batch = feed.get_next_as_optional()
        return batch.has_value(), lambda: without_optionals(self._shaped(batch.get_value()))

    def _shaped(self, batch: Any) -> Any:
        """The batch with the shapes that it would have if it had been taken as Keras takes it."""
        _, specs = self.specs()
        for leaf, spec in zip(tf.nest.flatten(batch, expand_composites=True), tf.nest.flatten(specs, expand_composites=True)):
            if isinstance(spec, tf.TensorSpec):
                leaf.set_shape(spec.shape)
        return batch

    def describe(self) -> str:
        return f"{super().describe()}, distributed to {self._strategy.num_replicas_in_sync} replicas"


def _per_replica(part: Callable[[int], Any], strategy: tf.distribute.Strategy) -> Any:
    """A nest whose leaves hold a tensor for each replica, made of a nest for each; None stays None."""
    parts = []
    for replica, device in enumerate(strategy.extended.worker_devices):  # those of this process
        with tf.device(device):  # where Keras's batches are too: elsewhere last bits may differ
            parts.append(part(replica))

    def joined(*leaves: Any) -> Any:
        if leaves[0] is None:
            return None
        local = iter(leaves)
        return strategy.experimental_distribute_values_from_function(lambda _: next(local))

    return tf.nest.map_structure(joined, *parts)


def _spec_of(batch: Callable[[Any], Any], feed_spec: Any) -> Any:
    """Spec of what `batch` takes out of such a feed when it is traced."""
    traced = tf.function(batch, autograph=False).get_concrete_function(feed_spec).structured_outputs
    specs = tf.nest.map_structure(lambda leaf: None if leaf is None else tf.type_spec_from_value(leaf), traced)
    return without_optionals(specs)
