"""From fit's data arguments to the source that serves them."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from fitcore import keras_private
from fitcore.cluster.agreement import is_cluster
from fitcore.data.distributed import DistributedSource, ReplicaArraySource
from fitcore.data.memory import copied
from fitcore.data.order import KerasOrder, Order, Reshuffle
from fitcore.data.sources import ArraySource, DatasetSource, ResizableSource, Source
from fitcore.errors import NoDataError


def make_source(
    x: Any = None,
    y: Any = None,
    sample_weight: Any = None,
    *,
    batch_size: int | None = None,
    steps_per_epoch: int | None = None,
    shuffle: bool | str | Reshuffle = False,
    class_weight: dict[int, float] | None = None,
    resizable: bool = False,
    strategy: tf.distribute.Strategy | None = None,
    trains: bool = True,
) -> Source:
    """The source for fit's data arguments, read and checked by Keras's own data adapters.

    Args:
      x, y ... class_weight: as in fit; `shuffle` may be a `Reshuffle`.
      resizable: let the batch size change in mid-run; it begins at `batch_size`.
      strategy: whose replicas are to be served, each with its part of a batch; None: one device.
      trains: whether it is for training. Evaluation takes data without a batch, as Keras does.

    Raises:
      ValueError: as Keras does, for a PyDataset without a batch; for data to train on without a single row; and if a change of
        the batch size or an order of fitcore's is asked for of an input that has batches or an order of its own.
    """
    if x is None:
        raise NoDataError("`x` must be arrays, a dataset or a generator of batches. Received: x=None")
    own_order = shuffle if isinstance(shuffle, Reshuffle) else None
    adapter = keras_private.get_data_adapter(
        x=x,
        y=y,
        sample_weight=sample_weight,
        batch_size=batch_size,
        steps_per_epoch=steps_per_epoch,
        shuffle=shuffle if own_order is None else False,
        class_weight=class_weight,
    )
    if adapter.num_batches == 0 and (trains or isinstance(x, keras.utils.PyDataset)):
        raise ValueError(f"`x` holds no data: 0 batches. Received: x={_summary(x)}")
    order: Any = own_order or KerasOrder("batch" if shuffle == "batch" else bool(shuffle))
    source = source_of(adapter, order, strategy)
    if resizable and strategy is None:
        if not isinstance(source, ArraySource) or shuffle == "batch":
            what = "is made of batches already" if shuffle != "batch" else 'is shuffled inside batches (shuffle="batch")'
            raise ValueError(f"A changing batch size needs dense arrays for `x`; this input {what}: {_summary(x)}")
        source = ResizableSource(source.tensors, source.batch_size, order)
    if own_order is not None and not isinstance(source, ArraySource):
        raise ValueError(f"`shuffle={own_order}` needs dense arrays for `x`; this input has an order of its own: {_summary(x)}")
    return source


def source_of(adapter: Any, order: Order | None = None, strategy: tf.distribute.Strategy | None = None) -> Source:
    """The source that serves one of Keras's data adapters; arrays in `order`, None being as they stand.

    In a cluster of several replicas in each process the strategy's own dataset serves arrays too: it shares rows out among them
    in another order.
    """
    arrays = keras_private.array_inputs(adapter)
    mixed = strategy is not None and is_cluster(strategy) and len(strategy.extended.worker_devices) > 1
    if arrays is None or mixed or adapter.num_batches == 0:
        return DatasetSource(adapter) if strategy is None else DistributedSource(adapter, strategy)
    order = order or KerasOrder(False)
    known: dict[int, Any] = {}  # an autoencoder's inputs are its targets too

    def tensor(leaf: Any) -> Any:
        if isinstance(leaf, np.ndarray) and id(leaf) not in known:
            known[id(leaf)] = copied(leaf)
        return known.get(id(leaf), leaf)

    tensors = tf.nest.map_structure(tensor, arrays)
    if strategy is None or strategy.num_replicas_in_sync == 1:
        return ArraySource(tensors, adapter.batch_size, order)
    return ReplicaArraySource(tensors, adapter.batch_size, order, strategy)


def _summary(x: Any) -> str:
    shape = getattr(x, "shape", None)
    return type(x).__name__ if shape is None else f"{type(x).__name__} of shape {tuple(shape)}"
