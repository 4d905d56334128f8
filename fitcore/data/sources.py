"""Sources of batches for the compiled loop.

A source hands the compiled program a `feed` (tensors or an iterator, passed as arguments, never baked into the graph) and
the traced function that takes batch `i` out of it.
"""

from __future__ import annotations

import copy
import functools
import hashlib
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import keras
import numpy as np
import tensorflow as tf

from fitcore import keras_private
from fitcore.data import torch_generators
from fitcore.data.order import Order
from fitcore.data.workers import Workers


def on_host() -> Any:
    """Within it ops are put on the host: those that count, and say where a batch begins.

    The host decides what runs next, and would have to wait for a GPU that counts (`python -m benchmarks.placement`).
    """
    return tf.device("/device:CPU:0")


class Source(Protocol):
    """Where batches come from."""

    num_batches: int | None  # batches in one pass; None: unknown or endless
    draws_when_opened: bool  # whether what comes later depends on how often a pass has been opened
    key: Any  # equal keys: one compiled program serves both sources
    replicated: bool  # whether a batch holds a part for each of several replicas
    drew_again: frozenset[str]  # global generators that `open_again` has drawn from, to where they must be

    @property
    def has_state(self) -> bool:
        """Whether the feed of a pass is an iterator whose state is to be saved."""

    def open_pass(self, pass_index: int) -> Any:
        """Start a pass over the data; returns its feed (a nest of tensors, or an iterator)."""

    def specs(self) -> tuple[Any, Any]:
        """(spec of a feed, spec of a batch), as `tf.function` takes them."""

    def next_batch(self, feed: Any, place: tf.Tensor, rows: tf.Tensor | None) -> tuple[tf.Tensor | None, Callable[[], Any]]:
        """The batch at `place` of the pass, traced: (whether there is one, how to get it). None in place of the first: always.

        A place is the batch's index; where the batch size may change, its first row, and it has `rows` rows.
        """

    def element_spec(self) -> Any:
        """Spec of a batch as Keras's own iterator over these data gives it; None if there is none to compare with."""

    def served_as(self, batch_spec: Any) -> Source:
        """The same data, in batches whose shapes are known no better than `batch_spec` says, an `element_spec`."""

    def ended(self, place: int) -> bool:
        """Whether the pass is known to hold nothing from `place` on."""

    def state(self, feed: Any) -> dict[str, Any]:
        """What another process needs to open this pass again: plain values and arrays."""

    def open_again(
        self, state: Mapping[str, Any], pass_index: int, read: Sequence[int], within: bool, iterator: Path | None
    ) -> Any:
        """Open a pass that was under way in another process, at its place; returns its feed.

        Args:
          state: what `state` gave there.
          pass_index: the pass.
          read: how many batches were taken from each pass that was opened there, this one being the last.
          within: whether an epoch is under way.
          iterator: TensorFlow's checkpoint of the pass's iterator, None without one.

        Raises:
          ValueError: the data have another order here.
        """

    def not_exact(self) -> str | None:
        """Why a pass can't be opened again exactly, as far as can be known; None if it can."""

    def on_epoch_begin(self, new_pass: bool) -> None:
        """An epoch begins; `new_pass`: and with it a pass, rather than that the one under way runs on."""

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

    Attributes:
      sizes: rows in every batch of a pass but the last, and in the last if it is smaller, else 0. None: they may change.
    """

    has_state = draws_when_opened = False
    replicated = False
    drew_again: frozenset[str] = frozenset()

    def __init__(self, tensors: Any, batch_size: int, order: Order) -> None:
        self.tensors = tensors
        self._tensors = [leaf for leaf in tf.nest.flatten(tensors) if leaf is not None]
        self.num_rows = int(self._tensors[0].shape[0])
        self.batch_size = batch_size
        self.order = order
        self.num_batches: int | None = -(-self.num_rows // batch_size)
        self._static = batch_size if self.num_rows % batch_size == 0 else None
        full = min(batch_size, self.num_rows)
        self.sizes: tuple[int, int] | None = full, self.num_rows % full
        self._shapes = [tf.TensorShape([self._static, *leaf.shape[1:]]) for leaf in self._tensors]  # of a batch
        self.key: Any = self._key()
        self._opened: tuple[int, tf.Tensor] | None = None  # (pass, its order)

    def _key(self) -> Any:
        leaf_specs = [
            (leaf.dtype, None if shape.rank is None else tuple(shape[1:])) for leaf, shape in zip(self._tensors, self._shapes)
        ]
        nest = tf.nest.map_structure(lambda leaf: leaf is None, self.tensors)
        return ("arrays", repr(nest), tuple(leaf_specs), self._static)

    def element_spec(self) -> Any:
        if self.replicated:
            return None
        leaves = iter(tf.TensorSpec(shape, leaf.dtype) for leaf, shape in zip(self._tensors, self._shapes))
        return tf.nest.map_structure(
            lambda leaf: keras_private.NoneTensorSpec() if leaf is None else next(leaves), self.tensors
        )

    def served_as(self, batch_spec: Any) -> Source:
        shapes = [spec.shape for spec in tf.nest.flatten(batch_spec) if isinstance(spec, tf.TensorSpec)]
        if shapes == self._shapes:
            return self
        served = copy.copy(self)
        served._shapes = shapes
        if any(shape.rank is None or shape[0] is None for shape in shapes):
            served._static = None
        served.key = served._key()
        return served

    def open_pass(self, pass_index: int) -> Any:
        if self._opened is None or self._opened[0] != pass_index:
            self._opened = pass_index, self.order.rows(pass_index, self.num_rows, self.batch_size)
        return self._opened[1], tf.constant(self.batch_size, tf.int32), self._tensors  # int32: on the host

    def specs(self) -> tuple[Any, Any]:
        shapes = [shape if shape.rank is None else tf.TensorShape([None, *shape[1:]]) for shape in self._shapes]
        tensors = [tf.TensorSpec(shape, leaf.dtype) for leaf, shape in zip(self._tensors, shapes)]
        batch = self._pack([tf.TensorSpec(shape, leaf.dtype) for leaf, shape in zip(self._tensors, self._shapes)])
        return (tf.TensorSpec([None], tf.int64), tf.TensorSpec([], tf.int32), tensors), batch

    def batch_spec(self, rows: int | None) -> Any:
        """Spec of a batch of that many rows; None: unknown."""
        return self._pack([tf.TensorSpec([rows, *leaf.shape[1:]], leaf.dtype) for leaf in self._tensors])

    def next_batch(self, feed: Any, place: tf.Tensor, rows: tf.Tensor | None) -> tuple[tf.Tensor | None, Callable[[], Any]]:
        order, batch_size, tensors = feed

        def gather() -> Any:
            if self._static is not None:
                with on_host():
                    begin, size = tf.stack([place * self._static]), tf.constant([self._static], tf.int64)
                chosen = tf.slice(order, begin, size)
            else:
                with on_host():
                    rows = tf.cast(batch_size, tf.int64)
                    begin = place * rows
                    end = begin + rows
                chosen = _between(order, begin, end)
            return self._gathered(tensors, chosen)

        return None, gather

    def batch_at(self, feed: Any, place: tf.Tensor, rows: int) -> Any:
        """The batch at `place`, traced for XLA, for which `rows` rows are known to be left.

        Not by `tf.slice`: XLA would compile anew for each value of what its begin is made of.
        """
        order, batch_size, tensors = feed
        chosen = tf.gather(order, place * tf.cast(batch_size, tf.int64) + tf.range(rows, dtype=tf.int64))
        return self._gathered(tensors, chosen)

    def ended(self, place: int) -> bool:
        return self.num_batches is not None and place >= self.num_batches

    def state(self, feed: Any) -> dict[str, Any]:
        if feed is None:
            return {}
        order = np.asarray(feed[0])  # not a copy of it, as `numpy()` is
        return {"digest": _digest(order)} if self.order.repeatable else {"order": order}

    def open_again(
        self, state: Mapping[str, Any], pass_index: int, read: Sequence[int], within: bool, iterator: Path | None
    ) -> Any:
        if "order" in state:
            self._opened = pass_index, tf.constant(state["order"], tf.int64)
        feed = self.open_pass(pass_index)
        if "digest" in state and _digest(feed[0].numpy()) != state["digest"]:
            raise ValueError(
                f"`shuffle`: the order of pass {pass_index} over the data is not the one that was saved. Received: "
                f"{self.order.describe()}. Was another seed set, or none?"
            )
        return feed

    def not_exact(self) -> str | None:
        return None

    def _gathered(self, tensors: list[Any], chosen: tf.Tensor) -> Any:
        """The chosen rows of each tensor, as a batch."""
        return self._pack([tf.gather(tensor, chosen) for tensor in tensors])

    def _pack(self, leaves: list[Any]) -> Any:
        remaining = iter(leaves)
        return tf.nest.map_structure(lambda leaf: None if leaf is None else next(remaining), self.tensors)

    def on_epoch_begin(self, new_pass: bool) -> None:
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
        self._static = self.sizes = None
        self._shapes = [tf.TensorShape([None, *leaf.shape[1:]]) for leaf in self._tensors]
        self.key = ("arrays, batch size may change", *self.key[1:-1])

    def element_spec(self) -> Any:
        return None  # no size of Keras's changes within a fit

    def next_batch(self, feed: Any, place: tf.Tensor, rows: tf.Tensor | None) -> tuple[tf.Tensor, Callable[[], Any]]:
        order, _, tensors = feed
        end = tf.size(order, out_type=tf.int64)

        assert rows is not None
        with on_host():
            exists, behind = place < end, place + rows
        return exists, lambda: self._gathered(tensors, _between(order, place, behind))

    def ended(self, place: int) -> bool:
        return place >= self.num_rows

    def describe(self) -> str:
        return (
            f"{self.num_rows} rows on the device, batches gathered there, the first of {self.batch_size} rows, "
            f"{self.order.describe()}"
        )


def _between(order: tf.Tensor, begin: tf.Tensor, end: tf.Tensor) -> tf.Tensor:
    """The rows from one place to another, or to the last."""
    with on_host():
        begins, ends, strides = tf.stack([begin]), tf.stack([end]), tf.constant([1], tf.int64)
    return tf.strided_slice(order, begins, ends, strides)


def without_optionals(batch: Any) -> Any:
    """A batch (or its spec) with None for what a generator gave as None: Keras's adapters make an empty Optional of it."""
    kinds = (tf.experimental.Optional, tf.OptionalSpec)
    return tf.nest.map_structure(lambda leaf: None if isinstance(leaf, kinds) else leaf, batch)


GENERATOR_NOT_EXACT = "a Python generator begins anew in another process; the batches used so far are drawn from it and dropped"


def py_dataset_not_exact(dataset: keras.utils.PyDataset) -> str | None:
    """Why it can't be gone on with exactly in another process, as far as can be known; None if it can."""
    kind, base = type(dataset), keras.utils.PyDataset
    own = (kind.on_epoch_begin, kind.on_epoch_end) != (base.on_epoch_begin, base.on_epoch_end)
    if not own or hasattr(dataset, "load_state"):
        return None
    return (
        f"what {kind.__name__}'s own on_epoch_begin or on_epoch_end changes is saved only if it has the methods `state` "
        "and `load_state`"
    )


class DatasetSource:
    """Batches from a `tf.data` iterator, taken inside the compiled loop. Serves every other kind of input Keras takes.

    Args:
      adapter: Keras's data adapter, which turns the input (dataset, PyDataset, generator, ...) into a `tf.data.Dataset`.
    """

    draws_when_opened = True
    replicated = False
    drew_again: frozenset[str] = frozenset()

    def __init__(self, adapter: Any) -> None:
        self._adapter = adapter
        keras_private.use_pool(adapter, Workers)
        self._torch = keras_private.torch_loader_of(adapter)
        self._torch_began: Any = None  # the generators of a PyTorch DataLoader when the pass under way began
        if self._torch is not None:
            keras_private.as_passes_begin(adapter, self._note_generators)
        self._py_dataset = keras_private.py_dataset_of(adapter)
        self._random: Any = None  # Python's random state when the order of the pass under way was drawn from it
        self._has_workers = keras_private.has_workers(adapter)
        if self._py_dataset is not None and not self._has_workers:
            keras_private.as_passes_begin(adapter, self._note_random)
        self._dataset: tf.data.Dataset = adapter.get_tf_dataset()
        self.num_batches: int | None = adapter.num_batches
        self._element_spec = self._dataset.element_spec
        self.key: Any = ("dataset", repr(self._element_spec))
        self._rest: Any = None  # an adapter of the rest of a pass that another process had begun

    # TensorFlow's checkpoint of an iterator brings back the pass under way, but not what `shuffle` draws later (seen with 2.20
    # and 2.21). So only an endless pass is saved so; others are opened as often as before, for each draws seeds, and read
    # again up to their place; where seeds are drawn in reading too, so are all passes before. Found out when a fit is saved.

    @functools.cached_property
    def has_state(self) -> bool:
        endless = self._dataset.cardinality() == tf.data.INFINITE_CARDINALITY
        return bool(endless and not keras_private.shuffles_as_it_is_read(self._dataset, fused=True))

    @functools.cached_property
    def _all_again(self) -> bool:
        return keras_private.is_generator_adapter(self._adapter) or keras_private.shuffles_as_it_is_read(self._dataset)

    def open_pass(self, pass_index: int) -> Any:
        return iter(self._dataset)

    def specs(self) -> tuple[Any, Any]:
        return tf.data.IteratorSpec(self._element_spec), without_optionals(self._element_spec)

    def element_spec(self) -> Any:
        return self._element_spec

    def served_as(self, batch_spec: Any) -> Source:
        if batch_spec == self._element_spec:
            return self
        served = copy.copy(self)
        served._element_spec = batch_spec
        served.key = ("dataset", repr(batch_spec))
        return served

    def next_batch(self, feed: Any, place: tf.Tensor, rows: tf.Tensor | None) -> tuple[tf.Tensor, Callable[[], Any]]:
        batch = feed.get_next_as_optional()
        return batch.has_value(), lambda: without_optionals(batch.get_value())

    def ended(self, place: int) -> bool:
        return False

    def state(self, feed: Any) -> dict[str, Any]:
        own = self._py_dataset.state() if self._py_dataset is not None and hasattr(self._py_dataset, "state") else None
        torch = None
        if self._torch is not None:
            torch = {"began": self._torch_began, "now": torch_generators.states(self._torch)["own"]}
        return {"random": self._random, "own": own, "torch": torch}

    def open_again(
        self, state: Mapping[str, Any], pass_index: int, read: Sequence[int], within: bool, iterator: Path | None
    ) -> Any:
        if self._py_dataset is not None:
            return self._open_py_dataset_again(self._py_dataset, state, read, within)
        feed = None
        torch = state.get("torch")  # none in what older versions saved
        self.drew_again = frozenset()
        for i, batches in enumerate(read):
            feed = self.open_pass(pass_index)
            last = i == len(read) - 1
            if torch is not None:
                if last and batches:
                    begin = functools.partial(torch_generators.read_again, self._torch, torch["began"])
                    self.drew_again = begin(functools.partial(next, feed, None), batches)
                elif last:
                    torch_generators.set_own_states(self._torch, torch["now"])
            elif last and iterator is not None:
                tf.train.Checkpoint(iterator=feed).read(str(iterator)).assert_consumed()
            elif last or self._all_again:
                for _ in range(batches):
                    next(feed, None)
        return feed

    def _note_random(self) -> None:
        self._random = random.getstate()

    def _note_generators(self) -> None:
        self._torch_began = torch_generators.states(self._torch)

    def _open_py_dataset_again(
        self, whole: keras.utils.PyDataset, state: Mapping[str, Any], read: Sequence[int], within: bool
    ) -> Any:
        """By index: no batch that was used is made again."""
        place = read[-1] if read else 0
        if within:
            whole.on_epoch_begin()
        if state["own"] is not None:
            whole.load_state(state["own"])
        if place == 0:
            return iter(self._dataset)
        self._random = state["random"]
        order = keras_private.py_dataset_order(self._adapter, self._random)
        self._rest = keras_private.rest_of_py_dataset(self._adapter, order, place, begun=within)
        keras_private.use_pool(self._rest, Workers)
        if within:
            self._rest.on_epoch_begin()
        return iter(self._rest.get_tf_dataset())

    def not_exact(self) -> str | None:
        if keras_private.is_generator_adapter(self._adapter):
            return GENERATOR_NOT_EXACT
        return None if self._py_dataset is None else py_dataset_not_exact(self._py_dataset)

    def on_epoch_begin(self, new_pass: bool) -> None:
        if new_pass:
            self._rest = None
            if self._has_workers:  # they begin at once
                self._note_random()
        (self._rest or self._adapter).on_epoch_begin()

    def on_epoch_end(self) -> None:
        (self._rest or self._adapter).on_epoch_end()

    def describe(self) -> str:
        size = "of unknown size" if self.num_batches is None else f"of {self.num_batches} batches"
        return f"{type(self._adapter).__name__.removesuffix('Adapter')} {size}, in its own order"


def _digest(order: np.ndarray) -> str:
    """SHA-256 of an order's first rows, which tells another seed's from it."""
    return hashlib.sha256(order[: 1 << 12].tobytes()).hexdigest()
