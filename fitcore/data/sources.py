"""Sources of batches for the compiled loop.

A source hands the compiled program a `feed` (tensors or an iterator, passed as arguments, never baked into the graph) and
the traced function that takes batch `i` out of it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import tensorflow as tf

from fitcore import keras_private
from fitcore.data.order import KerasOrder, Order, Reshuffle
from fitcore.errors import NoDataError


class Source(Protocol):
    """Where batches come from."""

    num_batches: int | None  # batches in one pass; None: unknown or endless
    key: Any  # equal keys: one compiled program serves both sources

    def open_pass(self, pass_index: int) -> Any:
        """Start a pass over the data; returns its feed (a nest of tensors, or an iterator)."""

    def specs(self) -> tuple[Any, Any]:
        """(spec of a feed, spec of a batch), as `tf.function` takes them."""

    def next_batch(self, feed: Any, place: tf.Tensor, rows: tf.Tensor | None) -> tuple[tf.Tensor | None, Callable[[], Any]]:
        """The batch at `place` of the pass, traced: (whether there is one, how to get it). None in place of the first: always.

        A place is the batch's index; where the batch size may change, its first row, and it has `rows` rows.
        """

    def ended(self, place: int) -> bool:
        """Whether the pass is known to hold nothing from `place` on."""

    def on_epoch_begin(self) -> None: ...

    def on_epoch_end(self) -> None: ...

    def describe(self) -> str:
        """One line for `explain`."""


class ArraySource:
    """Batches gathered on the device, by row number, from tensors that stay there.

    The batch dimension is static when the batch size divides the number of rows and unknown otherwise, as in Keras's own
    pipeline: graph rewrites that depend on it change last bits.

    Args:
      tensors: a nest of tensors (None allowed) with the same number n > 0 of rows: (x,), (x, y) or (x, y, sample_weight).
      batch_size: rows per batch; the last batch of a pass may be smaller.
      order: the order of rows in each pass.
    """

    def __init__(self, tensors: Any, batch_size: int, order: Order) -> None:
        self.tensors = tensors
        self._tensors = [leaf for leaf in tf.nest.flatten(tensors) if leaf is not None]
        self.num_rows = int(self._tensors[0].shape[0])
        self.batch_size = batch_size
        self.order = order
        self.num_batches: int | None = -(-self.num_rows // batch_size)
        self._static = batch_size if self.num_rows % batch_size == 0 else None
        leaf_specs = [(leaf.dtype, tuple(leaf.shape[1:])) for leaf in self._tensors]
        nest = tf.nest.map_structure(lambda leaf: leaf is None, tensors)
        self.key: Any = ("arrays", repr(nest), tuple(leaf_specs), self._static)
        self._opened: tuple[int, tf.Tensor] | None = None  # (pass, its order)

    def open_pass(self, pass_index: int) -> Any:
        if self._opened is None or self._opened[0] != pass_index:
            self._opened = pass_index, self.order.rows(pass_index, self.num_rows, self.batch_size)
        return self._opened[1], tf.constant(self.batch_size, tf.int64), self._tensors

    def specs(self) -> tuple[Any, Any]:
        tensors = [tf.TensorSpec([None, *leaf.shape[1:]], leaf.dtype) for leaf in self._tensors]
        batch = [tf.TensorSpec([self._static, *leaf.shape[1:]], leaf.dtype) for leaf in self._tensors]
        return (tf.TensorSpec([None], tf.int64), tf.TensorSpec([], tf.int64), tensors), self._pack(batch)

    def next_batch(self, feed: Any, place: tf.Tensor, rows: tf.Tensor | None) -> tuple[tf.Tensor | None, Callable[[], Any]]:
        order, batch_size, tensors = feed

        def gather() -> Any:
            if self._static is not None:
                chosen = tf.slice(order, [place * self._static], [self._static])
            else:
                chosen = order[place * batch_size : tf.minimum((place + 1) * batch_size, tf.size(order, out_type=tf.int64))]
            return self._pack([tf.gather(tensor, chosen) for tensor in tensors])

        return None, gather

    def ended(self, place: int) -> bool:
        return self.num_batches is not None and place >= self.num_batches

    def _pack(self, leaves: list[Any]) -> Any:
        remaining = iter(leaves)
        return tf.nest.map_structure(lambda leaf: None if leaf is None else next(remaining), self.tensors)

    def on_epoch_begin(self) -> None:
        pass

    def on_epoch_end(self) -> None:
        pass

    def describe(self) -> str:
        return f"{self.num_rows} rows on the device, batches of {self.batch_size} gathered there, {self.order.describe()}"


class ResizableSource(ArraySource):
    """The same, of batches whose size may change from one to the next: a pass holds so many rows, not so many batches.

    The batch dimension is unknown to the graph, so that one program serves all sizes.

    Args:
      tensors, order: as above. batch_size: rows in the first batch.
    """

    def __init__(self, tensors: Any, batch_size: int, order: Order) -> None:
        super().__init__(tensors, batch_size, order)
        self.num_batches = None
        self._static = None
        self.key = ("arrays, batch size may change", *self.key[1:-1])

    def next_batch(self, feed: Any, place: tf.Tensor, rows: tf.Tensor | None) -> tuple[tf.Tensor, Callable[[], Any]]:
        order, _, tensors = feed
        end = tf.size(order, out_type=tf.int64)

        def gather() -> Any:
            chosen = order[place : tf.minimum(place + rows, end)]
            return self._pack([tf.gather(tensor, chosen) for tensor in tensors])

        return place < end, gather

    def ended(self, place: int) -> bool:
        return place >= self.num_rows

    def describe(self) -> str:
        return (
            f"{self.num_rows} rows on the device, batches gathered there, the first of {self.batch_size} rows, "
            f"{self.order.describe()}"
        )


def without_optionals(batch: Any) -> Any:
    """A batch (or its spec) with None for what a generator gave as None: Keras's adapters make an empty Optional of it."""
    kinds = (tf.experimental.Optional, tf.OptionalSpec)
    return tf.nest.map_structure(lambda leaf: None if isinstance(leaf, kinds) else leaf, batch)


class DatasetSource:
    """Batches from a `tf.data` iterator, taken inside the compiled loop. Serves every other kind of input Keras takes.

    Args:
      adapter: Keras's data adapter, which turns the input (dataset, PyDataset, generator, ...) into a `tf.data.Dataset`.
    """

    def __init__(self, adapter: Any) -> None:
        self._adapter = adapter
        self._dataset: tf.data.Dataset = adapter.get_tf_dataset()
        self.num_batches: int | None = adapter.num_batches
        self.key = ("dataset", repr(self._dataset.element_spec))

    def open_pass(self, pass_index: int) -> Any:
        return iter(self._dataset)

    def specs(self) -> tuple[Any, Any]:
        return tf.data.IteratorSpec(self._dataset.element_spec), without_optionals(self._dataset.element_spec)

    def next_batch(self, feed: Any, place: tf.Tensor, rows: tf.Tensor | None) -> tuple[tf.Tensor, Callable[[], Any]]:
        batch = feed.get_next_as_optional()
        return batch.has_value(), lambda: without_optionals(batch.get_value())

    def ended(self, place: int) -> bool:
        return False

    def on_epoch_begin(self) -> None:
        self._adapter.on_epoch_begin()

    def on_epoch_end(self) -> None:
        self._adapter.on_epoch_end()

    def describe(self) -> str:
        size = "of unknown size" if self.num_batches is None else f"of {self.num_batches} batches"
        return f"{type(self._adapter).__name__.removesuffix('Adapter')} {size}, in its own order"


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
) -> Source:
    """The source for fit's data arguments, read and checked by Keras's own data adapters.

    Args:
      x, y ... class_weight: as in fit; `shuffle` may be a `Reshuffle`.
      resizable: let the batch size change in mid-run; it begins at `batch_size`.

    Raises:
      ValueError: as Keras does, for data without a single row, and if a change of the batch size or an order of fitcore's is
        asked for of an input that has batches or an order of its own.
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
    if adapter.num_batches == 0:
        raise ValueError(f"`x` holds no data: 0 batches. Received: x={_summary(x)}")
    order: Any = own_order or KerasOrder("batch" if shuffle == "batch" else bool(shuffle))
    source: Source = source_of(adapter, order)
    if resizable:
        if not isinstance(source, ArraySource) or shuffle == "batch":
            what = "is made of batches already" if shuffle != "batch" else 'is shuffled inside batches (shuffle="batch")'
            raise ValueError(f"A changing batch size needs dense arrays for `x`; this input {what}: {_summary(x)}")
        source = ResizableSource(source.tensors, source.batch_size, order)
    if own_order is not None and not isinstance(source, ArraySource):
        raise ValueError(f"`shuffle={own_order}` needs dense arrays for `x`; this input has an order of its own: {_summary(x)}")
    return source


def source_of(adapter: Any, order: Order | None = None) -> ArraySource | DatasetSource:
    """The source that serves one of Keras's data adapters; arrays in `order`, None being as they stand."""
    tensors = keras_private.array_inputs(adapter)
    if tensors is None:
        return DatasetSource(adapter)
    return ArraySource(tensors, adapter.batch_size, order or KerasOrder(False))


def _summary(x: Any) -> str:
    shape = getattr(x, "shape", None)
    return type(x).__name__ if shape is None else f"{type(x).__name__} of shape {tuple(shape)}"
